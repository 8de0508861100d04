"""How a line replicates the trunk, and a cluster of this machine one of whose replicas is killed under load."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from compt_fast.prediction.predictor import Answer, Predictor, load
from compt_fast.serve import ADMIN_TOKEN
from compt_fast.serving.cluster import Replication, Weightless, _span, check_room
from compt_fast.utils.errors import InputError
from tests.helpers.jobs import REPOSITORY
from tests.helpers.serving import ADMIN, AS_ADMIN, ASK, mixed_rows, until
from tools.soak_serve import same

CLIENTS = 4


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("3", 3, 3), ("1-4", 1, 4), ("2-2", 2, 2)])
def test_a_span_of_replicas(text: str, least: int, most: int) -> None:
    asked = Replication(text, 2)
    assert (asked.least, asked.most) == (least, most)
    options = asked.options(1, 30.0)
    assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 1}
    scaled = options.get("autoscaling_config", {})
    fixed = (options.get("num_replicas"), scaled.get("min_replicas"), scaled.get("max_replicas"))
    assert fixed == ((None, least, most) if most > least else (least, None, None))


@pytest.mark.parametrize("text", ["0", "-1", "4-1", "0-2", "1-2-3", "many", "1-", ""])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError):
        _span(text)


def test_a_client_of_a_cluster_is_no_server() -> None:
    with pytest.raises(InputError, match="--ray ray://head:10001: a client of a cluster cannot listen for it"):
        Replication(address="ray://head:10001")


@pytest.mark.parametrize(
    ("replicas", "cpus", "gpus", "machines", "room"),
    [
        ("2", 2, 0, [{"CPU": 3.0}, {"CPU": 2.0}], 2),
        ("3", 2, 0, [{"CPU": 3.0}, {"CPU": 3.0}], 2),  # six processors, but none of two machines together
        ("1-8", 2, 0, [{"CPU": 2.0}], 1),
        ("2", 1, 1, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], 1),
        ("2", 1, 1, [{"CPU": 8.0, "GPU": 2.0}], 2),
        ("1", 1, 0, [{"memory": 1e9}], 0),
        ("1", 1, 0, [], 0),
    ],
)
def test_replicas_that_the_cluster_has_no_room_for_are_not_waited_for(
    replicas: str, cpus: int, gpus: int, machines: list[dict[str, float]], room: int
) -> None:
    asked = Replication(replicas, cpus)
    if room >= asked.least:
        check_room(asked, gpus, machines)
        return
    with pytest.raises(InputError, match=f"--replicas {replicas}: the cluster has room for {room} of --replica-cpus"):
        check_room(asked, gpus, machines)


def test_without_weights_prompts_are_checked_and_rows_encoded_as_before(offline: Predictor) -> None:
    light = Weightless.of(offline)
    assert light.prompts == offline.prompts and not hasattr(light.trunk, "embedding")
    assert light.trunk.fingerprint() == offline.trunk.fingerprint() and light.trunk.family == "t5"
    assert light.belonging is not None and offline.belonging is not None
    assert light.belonging.trunk is light.trunk and light.belonging.hashes == offline.belonging.hashes
    for one in offline.prompts.values():
        light.belonging.check(one)


@dataclass
class Command:
    """A server with replicas, as a process of its own."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def replicas(self) -> set[int]:
        """The processes that hold a trunk, those that start among them."""
        return {pid for pid, name in self.others() if f"-{self.port}" in name and "trunk" in name}

    def others(self) -> Iterator[tuple[int, str]]:
        """All processes of the cluster, and what they call themselves."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                status = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(status[3]) == self.process.pid and int(folder.name) != self.process.pid and status[0] != "Z":
                yield int(folder.name), text


@pytest.fixture
def command(artifacts: Path, tmp_path: Path) -> Iterator[Command]:
    line = [f"--prompts={artifacts / 'mini'}", f"--artifacts-root={artifacts}", "--port=0"]
    line += ["--ray", "--replicas=2", "--device=cpu"]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "compt_fast.serve", *line],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,  # its number is that of all its processes' session
            # With Ray's token in the environment nothing is written into the home folder.
            env=os.environ | {"RAY_AUTH_TOKEN": "0" * 64, ADMIN_TOKEN: ADMIN},
        )
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            log.seek(0)
            said = log.read()
            assert first.startswith("serving mini_cola, mini_mnli, ") and not said, said or first
            yield Command(process, int(first.rpartition(":")[2]))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class Load:
    """Clients that ask without pause, and what was wrong with what they were answered."""

    url: str
    rows: list[dict[str, Any]]
    expected: list[list[Answer]]  # what may be answered, a list a set of prompts
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def client(self, first: int) -> None:
        """Ask four rows at a time, from another place on than the other clients."""
        places = [*range(len(self.rows))]
        with httpx.Client(verify=False, timeout=60) as asking:
            while not self.over.is_set():
                first = (first + 5) % len(places)
                chosen = (places + places)[first : first + 4]
                try:
                    found = asking.post(f"{self.url}/v1/predict", json={"rows": [self.rows[at] for at in chosen]})
                except httpx.TransportError as error:
                    if not self.over.is_set():
                        self.wrong.append(repr(error))
                    return
                if found.status_code == 503 and self.over.is_set():
                    self.refused += 1
                    return
                answers = found.json().get("answers", [])
                right = [
                    any(same(answer, each[at]) for each in self.expected)
                    for answer, at in zip(answers, chosen, strict=False)
                ]
                self.wrong += [] if right == [True] * 4 else [f"{found.status_code}: {found.text}"]
                self.answered += 1


@pytest.mark.slow
def test_a_replica_that_is_killed_under_load_costs_no_request(
    command: Command, artifacts: Path, offline: Predictor
) -> None:
    other = load(artifacts / "other", device="cpu")
    changed = Predictor(offline.trunk, {**offline.prompts, "mini_rte": other.prompts["mini_rte"]})
    rows = mixed_rows(2)
    before, after = offline.predict(rows), changed.predict(rows)
    assert before != after
    load_ = Load(command.url, rows, [before])
    clients = [threading.Thread(target=load_.client, args=(13 * number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    until(lambda: load_.answered > 10)
    first = command.replicas()
    assert len(first) == 2
    assert not [pid for pid, _ in command.others() if ADMIN in Path(f"/proc/{pid}/environ").read_text(errors="replace")]
    killed = min(first)
    os.kill(killed, signal.SIGKILL)
    seen = load_.answered
    until(lambda: load_.answered > seen + 10)

    load_.expected = [before, after]  # a change reaches both the replica that is there and the one that starts
    put = ASK.put(f"{command.url}/v1/tasks/mini_rte", json={"path": "other"}, headers=AS_ADMIN, timeout=60)
    assert put.status_code == 200
    until(lambda: len(command.replicas() - {killed}) == 2, 120)
    seen = load_.answered
    until(lambda: load_.answered > seen + 20)
    assert not load_.wrong

    answers = ASK.post(f"{command.url}/v1/predict", json={"rows": rows}).json()["answers"]
    assert all(same(answer, right) for answer, right in zip(answers, after, strict=True))
    folders = {folder for _, name in command.others() for folder in re.findall("/tmp/compt-fast-[^/]+", name)}
    load_.over.set()
    command.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(60)
    assert not load_.wrong and load_.answered > 40
    assert command.process.wait(60) == 128 + signal.SIGTERM
    assert command.process.stdout is not None and command.process.stdout.read() == ""
    until(lambda: not [*command.others()])
    assert folders and not any(map(os.path.exists, folders))
