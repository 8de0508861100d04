"""`python -m compt_fast.serve`: answer rows over HTTP with trained prompts."""

from __future__ import annotations

import os
import socket
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.fields import WHOLE, Flag, Range
from compt_fast.config.flags import add_flag, meaning, value_of
from compt_fast.prediction.line import add_prompts, load_prompts_of, tasks_of
from compt_fast.serving.cluster import REPLICATION, Replication
from compt_fast.serving.limits import LIMITS, Limits
from compt_fast.utils.cluster import HERE
from compt_fast.utils.errors import InputError, exit_code

if TYPE_CHECKING:
    from compt_fast.serving.gate import Access
    from compt_fast.serving.service import Answers

TOKEN, ADMIN_TOKEN = "COMPT_FAST_TOKEN", "COMPT_FAST_ADMIN_TOKEN"
PORT = Flag(
    "the port, 0 for a free one",
    kind=WHOLE,
    ranges=(Range("is a number from 0 to 65535, not {}", least=0, most=65535),),
    name="port",
    default=8000,
)
EXAMPLES = """examples:
  compt-fast serve --prompts runs/mini                    # http://127.0.0.1:8000 has a page to try it on
  compt-fast serve --prompts store --port 0               # a free port; the first line says which
  compt-fast serve --prompts a --prompts b --artifacts-root runs --admin-token "$SECRET"
  COMPT_FAST_TOKEN="$SECRET" compt-fast serve --prompts store --host 0.0.0.0
  compt-fast serve --prompts store --ray --replicas 2     # two processes with a trunk each, started anew where one ends
  compt-fast serve --prompts store --ray auto --replicas 1-8 --replica-cpus 4    # over the cluster that runs here

  curl localhost:8000/v1/predict -H 'Content-Type: application/json' \\
       -d '{"task": "mini_sst2", "rows": [{"sentence1": "the film was a joy"}], "scores": true}'

exit codes: 2 wrong input, a port that is taken among it; 130 after Ctrl-C and 143 after SIGTERM, once all that was
accepted is answered (a second signal ends it at once)
"""


def parser() -> CommandLine:
    """The command line of `serve`."""
    made = CommandLine(
        prog="compt-fast serve",
        description="Answer rows over HTTP with trained prompts: many tasks, one trunk, batches over all requests.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_prompts(made, flag="--prompts")
    group = made.add_argument_group("access")
    group.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)")
    add_flag(group, PORT, f"{meaning(PORT)} (default: {PORT.default})")
    group.add_argument("--token", help=f"the bearer token of requests; needed where others listen ({TOKEN})")
    group.add_argument("--admin-token", metavar="TOKEN", help=f"that of requests that change tasks ({ADMIN_TOKEN})")
    group.add_argument(
        "--artifacts-root", metavar="DIR", type=file_path, help="folder below which prompts that are added lie"
    )
    group = made.add_argument_group("limits")
    for flag in LIMITS.values():
        add_flag(group, flag, f"{meaning(flag)} (default: {flag.default})")
    group = made.add_argument_group("Ray Serve: this process listens, and replicas of the trunk answer")
    group.add_argument(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help="the cluster's address, auto for the one that runs here; alone, one on this machine for this server",
    )
    for flag in REPLICATION.values():
        add_flag(group, flag, f"{meaning(flag)} (default: {flag.default})")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    line = parser().parse_args(argv)
    return exit_code(lambda: run(line), out_of_memory_hint=": take a smaller --model, or --device cpu")


def run(line: Namespace) -> int:
    """Bind, read, and serve until a signal."""
    needed = {"serve": ("fastapi", "uvicorn", "prometheus_client")} | ({} if line.ray is None else {"ray": ("ray",)})
    for extra, packages in needed.items():
        if missing := [name for name in packages if find_spec(name) is None]:
            raise InputError(f"serving needs {', '.join(missing)}: pip install 'compt-fast[{extra}]'")
    limits = Limits(**{flag.field: _value(line, flag) for flag in LIMITS.values()})
    replication = _replication(line)
    port = _value(line, PORT)
    PORT.check(port)
    from compt_fast.serving.app import make_app
    from compt_fast.serving.batcher import Batcher
    from compt_fast.serving.cluster import Weightless, replicated
    from compt_fast.serving.served import Served
    from compt_fast.serving.server import bound, serve, url_of

    listening = bound(line.host, port)
    access = _access(line, listening)
    known = tasks_of(line)
    predictor = load_prompts_of(line, known)
    if replication is not None:
        predictor = Weightless.of(predictor)
    served = Served(predictor, line.artifacts_root, known)
    out = sys.stdout

    def listen(answers: Answers) -> int:
        app = make_app(served, limits, access, answers)
        print(f"serving {', '.join(predictor.tasks)} on {url_of(listening)}", file=out, flush=True)
        return serve(app, listening)

    if replication is None:
        return listen(Batcher)
    name = f"compt_fast-{socket.gethostname()}-{listening.getsockname()[1]}"
    with replicated(predictor, replication, limits, name) as answers:
        return listen(answers)


def _access(line: Namespace, listening: socket.socket) -> Access:
    """Who may do what, by the line and the environment."""
    from compt_fast.serving.gate import Access
    from compt_fast.serving.server import is_local

    token = _token(line.token, "--token", TOKEN, line.ray)
    admin = _token(line.admin_token, "--admin-token", ADMIN_TOKEN, line.ray)
    access = Access(token, admin, is_local(listening))
    if not access.local and access.token is None:
        raise InputError(f"--host {line.host}: where others can ask, a token is needed: --token, or {TOKEN}")
    return access


def _token(given: str | None, flag: str, variable: str, ray: str | None) -> str | None:
    """A token by the line, else by the environment, where no process that this one starts is to find it."""
    kept = os.environ.pop(variable, None)
    if given is not None and ray is not None:
        raise InputError(f"{flag}: with --ray, all of the cluster can read this line: give it by {variable}")
    return kept if given is None else given


def _replication(line: Namespace) -> Replication | None:
    """How the line wants the trunk replicated, None where it does not."""
    if line.ray is not None:
        return Replication(**{flag.field: _value(line, flag) for flag in REPLICATION.values()}, address=line.ray)
    for flag in REPLICATION.values():
        if getattr(line, flag.key) is not None:
            raise InputError(f"--{flag.name} needs --ray: without it one trunk answers, in this process")
    return None


def _value(line: Namespace, flag: Flag) -> Any:
    given = getattr(line, flag.key)
    return flag.default if given is None else value_of(flag, given, f"--{flag.name}")


if __name__ == "__main__":
    sys.exit(main())
