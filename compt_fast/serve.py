"""`python -m compt_fast.serve`: answer rows over HTTP with trained prompts."""

from __future__ import annotations

import os
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.fields import WHOLE, Flag, Range
from compt_fast.config.flags import add_flag, meaning, value_of
from compt_fast.prediction.line import add_prompts, chosen, load_prompts_of
from compt_fast.serving.limits import LIMITS, Limits
from compt_fast.utils.errors import InputError, exit_code

if TYPE_CHECKING:
    from fastapi import FastAPI

    from compt_fast.serving.gate import Access

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
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    line = parser().parse_args(argv)
    return exit_code(lambda: run(line), out_of_memory_hint=": take a smaller --model, or --device cpu")


def run(line: Namespace) -> int:
    """Bind, read, and serve until a signal."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise InputError(f"serving needs {', '.join(missing)}: pip install 'compt-fast[serve]'")
    limits = Limits(**{flag.field: _value(line, flag) for flag in LIMITS.values()})
    port = _value(line, PORT)
    PORT.check(port)
    from compt_fast.serving.gate import Access
    from compt_fast.serving.server import bound, is_local, serve, url_of

    listening = bound(line.host, port)
    access = Access(
        os.environ.get(TOKEN) if line.token is None else line.token,
        os.environ.get(ADMIN_TOKEN) if line.admin_token is None else line.admin_token,
        is_local(listening),
    )
    if not access.local and access.token is None:
        raise InputError(f"--host {line.host}: where others can ask, a token is needed: --token, or {TOKEN}")
    app = application(line, limits, access)
    names = ", ".join(app.state.service.served.predictor.tasks)
    print(f"serving {names} on {url_of(listening)}", flush=True)
    return serve(app, listening)


def application(line: Namespace, limits: Limits, access: Access) -> FastAPI:
    """The application that the line asks for, its trunk and prompts read."""
    from compt_fast.serving.app import make_app
    from compt_fast.serving.served import Served
    from compt_fast.tasks.user import load_task_file

    predictor = load_prompts_of(line)
    known = [load_task_file(Path(file)) for file in chosen(line).get("task_file", ())]
    return make_app(Served(predictor, line.artifacts_root, known), limits, access)


def _value(line: Namespace, flag: Flag) -> Any:
    given = getattr(line, flag.key)
    return flag.default if given is None else value_of(flag, given, f"--{flag.name}")


if __name__ == "__main__":
    sys.exit(main())
