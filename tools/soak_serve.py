"""Load a server with all that clients do, and compare every answer: `python -m tools.soak_serve --minutes 10`.

Clients ask rows of many tasks at once, vanish, and send what is no request, while tasks are removed, added and given
other prompts. Then SIGTERM comes under load. Any of these is a breach, and ends with exit status 1: an answer other
than offline by the prompts that were served at some moment of the request; a wrong request that is not answered by what
is wrong; a request that was sent before the signal and has no answer; memory that grows; an exit code other than 143.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compt_fast.prediction.predictor import Answer, Predictor, load
from compt_fast.serve import ADMIN_TOKEN
from tests.helpers.serving import ADMIN, make_prompts, mixed_rows

CHANGING = ("mini_rte", "mini_sst2")  # tasks that come and go; no label of theirs is the longest
ROWS = 24  # of each task
CLIENTS = 8
CLOSE = 1e-4  # of likelihoods: what the rounding of other sums may change
GROWTH = 2.0  # MiB a minute over the second half of a run
JUDGED = 4.0  # minutes: in less, what is first used weighs more than what is lost
JSON = {"Content-Type": "application/json"}
BAD: tuple[tuple[bytes, int], ...] = (
    (b'{"rows": ', 400),
    (b"\xff\xfe", 400),
    (b"", 422),
    (b"[]", 422),
    (b'{"rows": []}', 422),
    (b'{"rows": {"sentence1": NaN}, "task": "mini_cola"}', 422),
    (b'{"rows": {"sentence1": "a"}, "task": "mini_cols"}', 422),
    (b'{"rows": [{"sentence1": "a"}, {"sentence2": "b"}], "task": "mini_cola"}', 422),
    (b'{"rows": {"sentence1": "%b"}, "task": "mini_cola"}' % (b"a" * 30_000), 422),
    (b'{"rows": "%b"}' % (b"a" * 2**20), 413),
)
Key = tuple[str, int, bool]  # prompts, row, scores


@dataclass
class Timeline:
    """Which prompts a task had, and when: "" where it was not served."""

    changes: list[tuple[float, float, str]]  # when a change was asked for, when it was answered, what is served then
    lock: threading.Lock = field(default_factory=threading.Lock)

    def served(self, began: float, ended: float) -> set[str]:
        """What may have been served at some moment between."""
        with self.lock:
            changes = [*self.changes]
        until = [answered for _, answered, _ in changes[1:]] + [float("inf")]
        return {what for (asked, _, what), last in zip(changes, until, strict=True) if asked <= ended and last >= began}


class Soak:
    """The rows, what they should be answered by, and what was seen."""

    def __init__(self, root: Path, rows: int = ROWS) -> None:
        self.rows = mixed_rows(rows)
        paths = [make_prompts(root / "a"), make_prompts(root / "b", CHANGING, seed=1)]
        first = load(paths[0], device="cpu")
        other = Predictor(first.trunk, {**first.prompts, **load(paths[1], device="cpu").prompts})
        self.expected: dict[Key, Answer] = {}
        for name, predictor in (("a", first), ("b", other)):
            for scores in (False, True):
                for number, answer in enumerate(predictor.predict(self.rows, scores=scores)):
                    self.expected[name, number, scores] = answer
        self.timelines = {task: Timeline([(0.0, 0.0, "a")]) for task in CHANGING}
        self.breaches: list[str] = []
        self.seen = Counter[str]()
        self.over = threading.Event()
        self.stopped = float("inf")  # when the signal was sent
        self.port = 0

    def breach(self, what: str) -> None:
        """Note one; of many the first are enough."""
        if len(self.breaches) < 50:
            self.breaches.append(what)
            print(f"BREACH {what}", flush=True)

    def ask(self, method: str, path: str, body: bytes | None, admin: bool = False) -> tuple[int, Any] | None:
        """The status and the content of an answer; None where none came and none had to."""
        began = time.monotonic()
        headers = JSON | ({"Authorization": f"Bearer {ADMIN}"} if admin else {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None
        except (OSError, http.client.HTTPException) as error:
            if began < self.stopped:
                self.breach(f"{method} {path}: no answer ({error!r})")
            return None
        finally:
            connection.close()

    def predict(self, chance: random.Random) -> None:
        """Ask some rows, and compare."""
        chosen = chance.sample(range(len(self.rows)), chance.choice((1, 1, 2, 4, 16)))
        scores = chance.random() < 0.3
        body = json.dumps({"rows": [self.rows[number] for number in chosen], "scores": scores}).encode()
        began = time.monotonic()
        found = self.ask("POST", "/v1/predict", body)
        ended = time.monotonic()
        if found is None:
            return
        status, content = found
        self.seen[f"predict {status}"] += 1
        if status == 200:
            self.seen["rows compared"] += len(chosen)
            for number, answer in zip(chosen, content["answers"], strict=True):
                served = self._served(self.rows[number]["task"], began, ended)
                if not any(same(answer, self.expected[name, number, scores]) for name in served if name):
                    self.breach(f"row {number} by {served}: {answer}")
        elif status == 422:
            unknown = re.match("row [0-9]+: unknown task '([a-z_0-9]+)'", content["error"])
            if not (unknown and unknown[1] in CHANGING and "" in self._served(unknown[1], began, ended)):
                self.breach(f"refused: {content}")
        elif status == 429:
            time.sleep(0.05)
        elif not (status == 503 and ended >= self.stopped):
            self.breach(f"{status}: {content}")

    def _served(self, task: str, began: float, ended: float) -> set[str]:
        return self.timelines[task].served(began, ended) if task in self.timelines else {"a"}

    def spoil(self, chance: random.Random) -> None:
        """Send what is no request."""
        body, expected = chance.choice(BAD)
        found = self.ask("POST", "/v1/predict", body)
        if found is not None:
            self.seen["bad bodies"] += 1
            if found[0] not in (expected, 503) or not found[1]["error"] or (found[0] == 503 and self.stopped > 1e300):
                self.breach(f"{body[:60]!r} is answered by {found}")

    def vanish(self, chance: random.Random) -> None:
        """Send a request, or a part of it, and go."""
        body = json.dumps({"rows": [self.rows[number] for number in chance.sample(range(len(self.rows)), 4)]}).encode()
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as going:
                going.sendall(whole[: chance.choice((10, len(whole) - 20, len(whole), len(whole)))])
                time.sleep(chance.choice((0, 0, 0.01)))
            self.seen["vanished"] += 1
        except OSError as error:
            if time.monotonic() < self.stopped:
                self.breach(f"no connection ({error})")

    def change(self, chance: random.Random) -> None:
        """Remove a task, or give it prompts."""
        task, what = chance.choice(CHANGING), chance.choice(("a", "b", ""))
        timeline = self.timelines[task]
        before = timeline.changes[-1][2]
        asked = time.monotonic()
        with timeline.lock:  # from now on it may be so
            timeline.changes.append((asked, float("inf"), what))
        body = json.dumps({"path": what}).encode() if what else None
        found = self.ask("PUT" if what else "DELETE", f"/v1/tasks/{task}", body, admin=True)
        with timeline.lock:
            timeline.changes[-1] = (asked, time.monotonic(), what)
        if found is not None:
            self.seen["tasks changed"] += 1
            expected = (200 if before else 201) if what else 204 if before else 404
            if found[0] != expected:
                self.breach(f"{task} from {before!r} to {what!r}: {found}")

    def look(self, chance: random.Random) -> None:
        """Read what a server says of itself."""
        found = self.ask("GET", "/v1/tasks", None)
        if found is not None:
            names = {task["name"] for task in found[1]["tasks"]}
            self.seen["looked"] += 1
            if not {row["task"] for row in self.rows} - set(CHANGING) <= names:
                self.breach(f"tasks are {sorted(names)}")

    def client(self, seed: int) -> None:
        """One client, until the end."""
        chance = random.Random(seed)
        acts = [*80 * [self.predict], *8 * [self.spoil], *8 * [self.vanish], *4 * [self.look]]
        self.repeat(lambda: chance.choice(acts)(chance))

    def changer(self) -> None:
        """The one who changes tasks."""
        chance = random.Random("changer")

        def act() -> None:
            self.change(chance)
            time.sleep(chance.uniform(0, 0.2))

        self.repeat(act)

    def repeat(self, act: Callable[[], Any]) -> None:
        """Act until the end; what no act foresees is a breach too."""
        while not self.over.is_set():
            try:
                act()
            except Exception as error:
                self.breach(f"{type(error).__name__}: {error}")


def same(found: dict[str, Any], expected: Answer) -> bool:
    """Whether an answer is that which was given offline."""
    if (found["task"], found["label"], found["text"]) != (expected.task, expected.label, expected.text):
        return False
    if expected.scores is None or found["scores"] is None:
        return found["scores"] is expected.scores
    names = expected.scores.keys()
    return found["scores"].keys() == names and all(
        abs(found["scores"][name] - expected.scores[name]) < CLOSE for name in names
    )


def resident(process: int) -> float:
    """MiB of a process that are in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def run(minutes: float, flags: Sequence[str] = ()) -> int:
    """Serve with these flags too, load, stop; print what was seen."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(Path(folder))
        limits = ["--queue-rows=48", "--max-rows=16", "--batch-tokens=1024", "--timeout=30"]
        command = [
            sys.executable,
            "-m",
            "compt_fast.serve",
            f"--prompts={folder}/a",
            "--device=cpu",
            f"--artifacts-root={folder}",
            "--port=0",
            *limits,
            *flags,
        ]
        log = open(Path(folder, "log"), "w+")  # noqa: SIM115  (till the process ends)
        environment = os.environ | {ADMIN_TOKEN: ADMIN}
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        assert server.stdout is not None
        address = re.search(r":(\d+)$", server.stdout.readline().strip())
        if address is None:
            log.seek(0)
            raise SystemExit(f"no server: {log.read()}")
        soak.port = int(address[1])
        threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(CLIENTS)]
        threads.append(threading.Thread(target=soak.changer))
        for thread in threads:
            thread.start()
        samples, end = [], time.monotonic() + 60 * minutes
        while (now := time.monotonic()) < end and server.poll() is None:
            samples.append((now / 60, resident(server.pid)))
            time.sleep(min(0.5, max(0.0, end - now)))
        soak.stopped = time.monotonic()
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
        soak.over.set()
        for thread in threads:
            thread.join()
        log.seek(0)
        said = log.read()
    return judge(soak, samples, code, said, minutes)


def judge(soak: Soak, samples: list[tuple[float, float]], code: int, said: str, minutes: float) -> int:
    """The exit status, and all figures in print."""
    if code != 128 + signal.SIGTERM:
        soak.breach(f"the server ended with {code}")
    if "Traceback" in said:
        soak.breach(f"the server's log has a traceback:\n{said[:3000]}")
    times, sizes = np.array(samples[len(samples) // 2 :]).T
    slope = float(np.polyfit(times, sizes, 1)[0]) if len(times) > 2 else 0.0
    if minutes >= JUDGED and slope > GROWTH:
        soak.breach(f"memory grows by {slope:.2f} MiB a minute")
    print(", ".join(f"{count:,} {what}" for what, count in sorted(soak.seen.items())))
    tenths = [f"{part[-1][1]:.0f}" for part in np.array_split(np.array(samples), min(10, len(samples)))]
    print(
        f"memory {samples[0][1]:.0f} MiB at first, after each tenth of {minutes:g} minutes {', '.join(tenths)}", end=""
    )
    print(f"; {slope:+.2f} MiB a minute over the second half")
    print(f"{len(soak.breaches)} breaches" if soak.breaches else "no breach")
    return 1 if soak.breaches else 0


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak_serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of load, before the signal (10)")
    parser.add_argument("--replicas", type=int, help="of a server on Ray Serve; without it no Ray is there")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false"}
    line = parser.parse_args(argv)
    return run(line.minutes, [] if line.replicas is None else ["--ray", f"--replicas={line.replicas}"])


if __name__ == "__main__":
    sys.exit(main())
