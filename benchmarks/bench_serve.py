"""The server under load, against other software behind the same server: rows/s, and latency at the same load.

    python -m benchmarks.bench_serve                                    # embedded trunk, a minute or two
    python -m benchmarks.bench_serve --size t5-base --seconds 30 --json serve.json     # half an hour on two cores
    python -m benchmarks.bench_serve --size t5-base --servers "fast fp32" "fast bf16" "ctranslate2 int8"

Each server answers the same rows of eight tasks, one row a request, over loopback. First the answers of all are
compared with those of `reference` in fp32, string by string. Then, for each number of clients: how many rows/s they get
when each asks again as soon as it has its answer; and, with as many connections, the latency when requests come at
random moments at a rate that is the same for all servers (`--load` of the slowest one's rows/s), counted from the
moment at which a request was due, so that a server that falls behind is not spared.

`fast` and `reference` are `compt_fast.serve` by its engines, `peft` is transformers with an adapter of PEFT that is
switched from row to row, `ctranslate2` the export `vocabulary` in CTranslate2, its workers, threads and tokens a batch
searched (benchmarks/serve_peers.py has both). Prompts are tokens of the trunk, whose weights are random but for the
embedded one's; rows are real where there are some (benchmarks/inputs.py). The machine must do nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import SIZES, checkpoint, rows
from compt_fast.config.job import JobSettings
from compt_fast.runs.job import named_trunk
from compt_fast.tasks.loaders import load_task
from compt_fast.tasks.table import SUITES, TASKS
from tests.helpers.serving import make_prompts

SERVERS = (
    "fast fp32",
    "fast bf16",
    "fast int8",
    "reference fp32",
    "peft fp32",
    "ctranslate2 float32",
    "ctranslate2 int8",
)
TRUTH = "reference fp32"
AGREEMENT = {"fp32": 1.0, "float32": 1.0, "bf16": 0.0, "int8": 0.0}
"""The least share of strings that are the same. Those of bf16 and int8 are told and not judged: over random weights the
largest logits lie closer together than their steps; `tools/int8_agreement.py` has trained prompts."""
TUNED = ((1, 2, 1024), (1, 2, 2048), (2, 1, 2048), (2, 1, 4096))  # CTranslate2's workers, threads, tokens a batch
Row = dict[str, str]


def mixed(size: str, folder: Path, each: int) -> list[Row]:
    """Rows of all tasks in turn."""
    flags = {} if size == "mini" else {key: Path(value) for key, value in rows(folder / "rows").items()}
    drawn = []
    for name in SUITES["mini" if size == "mini" else "glue"]:
        data = load_task(TASKS[name], **flags).evaluation
        columns = [column for column, _ in TASKS[name].fields]
        picked = (data[number % len(data)] for number in range(each))
        drawn.append([{"task": name} | dict(zip(columns, row.texts, strict=True)) for row in picked])
    return [row for of in zip(*drawn, strict=True) for row in of]


@contextmanager
def served(name: str, artifact: Path, tuned: Sequence[int] = TUNED[0]) -> Iterator[int]:
    """A server in a process of its own; its port."""
    kind, dtype = name.split()
    command = [sys.executable, "-m"]
    if kind in ("fast", "reference"):
        command += ["compt_fast.serve", f"--engine={kind}", f"--dtype={dtype}", "--device=cpu", "--timeout=600"]
    elif kind == "peft":
        command += ["benchmarks.serve_peers", "peft", f"--dtype={dtype}"]
    else:
        workers, threads, tokens = tuned
        command += ["benchmarks.serve_peers", "ctranslate2", f"--compute={dtype}", f"--workers={workers}"]
        command += [f"--threads={threads}", f"--batch-tokens={workers * tokens}"]
    command += [f"--prompts={artifact}", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        if found is None:
            raise RuntimeError(f"{name}: no server")
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def ask(self, given: Sequence[Row]) -> list[str]:
        """The strings that rows are answered by."""
        body = json.dumps({"rows": given})
        self.connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content['error']}")
        return [one["text"] for one in content["answers"]]


def by_clients(port: int, clients: int, work: Callable[[Client], None]) -> None:
    """Let so many clients do their work side by side; an error of one is raised."""
    errors: list[Exception] = []

    def one() -> None:
        try:
            work(Client(port))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def throughput(port: int, asked: Sequence[Row], clients: int, seconds: float) -> float:
    """Rows/s of clients that ask again at once."""
    turn, ends = itertools.count(), []
    over = time.perf_counter() + seconds

    def work(client: Client) -> None:
        while time.perf_counter() < over:
            client.ask([asked[next(turn) % len(asked)]])
            ends.append(time.perf_counter())

    began = time.perf_counter()
    by_clients(port, clients, work)
    return len(ends) / (max(ends) - began)


def latencies(port: int, asked: Sequence[Row], clients: int, rate: float, seconds: float) -> np.ndarray:
    """Seconds from the moment at which each request was due; of an exponential distribution are those between."""
    chance, due, at = random.Random(0), [], 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        due.append(at)
    turn, took, began = itertools.count(), [], time.perf_counter() + 0.1

    def work(client: Client) -> None:
        while (number := next(turn)) < len(due):
            moment = began + due[number]
            time.sleep(max(0.0, moment - time.perf_counter()))
            client.ask([asked[number % len(asked)]])
            took.append(time.perf_counter() - moment)

    by_clients(port, clients, work)
    return np.array(took)


def strings(port: int, asked: Sequence[Row]) -> list[str]:
    """What all rows are answered by, 16 a request."""
    client = Client(port)
    return [text for at in range(0, len(asked), 16) for text in client.ask(asked[at : at + 16])]


def compared(names: Sequence[str], artifact: Path, asked: Sequence[Row]) -> dict[str, float]:
    """The share of a server's strings that are those of `TRUTH`, by its name; ends where it is too small."""
    with served(TRUTH, artifact) as port:
        expected = strings(port, asked)
    shares = {}
    for name in names:
        with served(name, artifact) as port:
            equal = [own == other for own, other in zip(strings(port, asked), expected, strict=True)]
        shares[name] = sum(equal) / len(equal)
        print(f"{name:24} {100 * shares[name]:6.2f} % of {len(asked)} strings are those of {TRUTH}", flush=True)
        if shares[name] < AGREEMENT[name.split()[1]]:
            raise SystemExit(f"{name} answers otherwise: nothing is timed")
    return shares


def best(name: str, artifact: Path, asked: Sequence[Row], clients: int, seconds: float) -> Sequence[int]:
    """CTranslate2's fastest workers, threads and tokens."""
    rates = {}
    for tuned in TUNED:
        with served(name, artifact, tuned) as port:
            rates[tuned] = throughput(port, asked, clients, seconds)
    print(f"{name}: " + ", ".join(f"{tuned} {rate:.1f} rows/s" for tuned, rate in rates.items()), flush=True)
    return max(rates, key=lambda tuned: rates[tuned])


def available(names: Sequence[str]) -> list[str]:
    """The servers that can run here; of the others, why not."""
    from importlib.util import find_spec

    from compt_fast.exports import EXPORTS

    found = []
    for name in names:
        package = {"peft": "peft", "ctranslate2": "ctranslate2"}.get(name.split()[0], "torch")
        if find_spec(package) is None:
            print(f"{name}: left out, as {package} is not installed")
        elif package == "ctranslate2" and "vocabulary" not in EXPORTS:
            print(f"{name}: left out, as there is no export `vocabulary`")
        else:
            found.append(name)
    return found


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, by server and number of clients."""
    names = available(given.servers)
    trunk = named_trunk(JobSettings(model=checkpoint(given.size, folder / given.size), dtype="fp32", device="cpu"))
    suite = SUITES["mini" if given.size == "mini" else "glue"]
    artifact = make_prompts(folder / "prompts", suite, trunk=trunk, length=given.length)
    asked = mixed(given.size, folder, given.rows)
    found: dict[str, Any] = {"size": given.size, "agreement": compared(names, artifact, asked), "servers": {}}
    most = max(given.clients)
    tuned = {
        name: best(name, artifact, asked, most, given.seconds / 3) for name in names if name.startswith("ctranslate2")
    }
    for name in names:
        with served(name, artifact, tuned.get(name, TUNED[0])) as port:
            throughput(port, asked, most, given.seconds / 5)  # what is first used is not timed
            rates = {clients: throughput(port, asked, clients, given.seconds) for clients in given.clients}
        shown = ", ".join(f"{rate:.1f} of {clients} clients" for clients, rate in rates.items())
        print(f"{name}: rows/s {shown}", flush=True)
        found["servers"][name] = {"tuned": tuned.get(name), "rows_per_second": rates, "latency_ms": {}}
    for name, own in found["servers"].items():
        with served(name, artifact, tuned.get(name, TUNED[0])) as port:
            throughput(port, asked, most, given.seconds / 5)
            for clients in given.clients:
                slowest = min(other["rows_per_second"][clients] for other in found["servers"].values())
                took = latencies(port, asked, clients, given.load * slowest, given.seconds)
                p50, p99 = (1000 * float(np.quantile(took, share)) for share in (0.5, 0.99))
                own["latency_ms"][clients] = {"load": given.load * slowest, "p50": p50, "p99": p99}
                print(
                    f"{name:24} {clients:3} clients: {own['rows_per_second'][clients]:8.1f} rows/s; at "
                    f"{given.load * slowest:7.1f} rows/s p50 {p50:8.1f} ms, p99 {p99:8.1f} ms",
                    flush=True,
                )
    return found


def main(argv: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), metavar="'KIND DTYPE'")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rows", type=int, default=38, help="of each task")
    parser.add_argument("--length", type=int, default=20, help="tokens of a prompt")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--load", type=float, default=0.7, help="of the slowest server's rows/s, for the latency")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        found = measured(given, Path(folder))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
