"""`python -m compt_fast.serve`: what its line may say, and how its process begins and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from compt_fast import serve
from tests.helpers.jobs import REPOSITORY, error_of
from tests.helpers.serving import ASK, make_prompts

ROW = {"rows": {"sentence1": "the film was a joy"}, "task": "mini_sst2"}
TOKEN = "a-token-of-tests-only"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prompts(tmp_path_factory.mktemp("serve") / "prompts")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_wrong_lines_are_refused_in_one_line(
    prompts: Path, taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(serve.TOKEN, raising=False)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    own, free = f"--prompts={prompts}", "--port=0"
    for line, said in (
        ([own, f"--port={taken}"], f"--port {taken}: another process listens there"),
        ([own, "--port=70000"], "--port is a number from 0 to 65535, not 70000"),
        ([own, "--port=x"], "--port takes a whole number, not 'x'"),
        ([own, free, "--max-wait-ms=-1"], "--max-wait-ms must not be negative"),
        ([own, free, "--host=0.0.0.0"], "a token is needed: --token, or COMPT_FAST_TOKEN"),
        ([own, free, "--host=0.0.0.0", "--token=short"], "--token: a token has 16 or more"),
        ([own, free, "--token="], "--token: a token has 16 or more"),
        ([own, free, "--host=192.0.2.1"], "--host 192.0.2.1 --port 0: no address of this machine"),
        ([own, free, own], "there are more of mini_cola in"),
        ([own, free, f"--artifacts-root={tmp_path / 'nothing'}"], "no such folder"),
        ([own, free, "--engine=fats"], "Did you mean 'fast'?"),
        ([own, free, "--ray", f"--token={TOKEN}"], "--token: with --ray, all of the cluster can read this line"),
        ([own, free, "--ray", f"--admin-token={TOKEN}"], "--admin-token: with --ray"),
        ([own, free, "--replicas=2"], "--replicas needs --ray: without it one trunk answers"),
        (
            [own, free, "--ray", "--replicas=4-1"],
            "takes a number of at least 1, or two as in 1-4, not '4-1'",
        ),
        ([own, free, "--ray", "--replica-cpus=0"], "--replica-cpus must be above 0"),
        ([own, free, "--ray=ray://head:10001"], "a client of a cluster cannot listen for it"),
        ([own, free, "--model=t5-nothing"], "t5-nothing"),
        ([f"--prompts={tmp_path / 'nothing'}", free], "no prompts; name a run folder"),
        ([f"--prompts={tmp_path / 'damaged'}", free], "not well-formed json"),
    ):
        assert said in error_of(capsys, serve.main, line), line


def test_what_is_not_installed_is_named(
    prompts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, extra, line in (("uvicorn", "serve", []), ("ray", "ray", ["--ray"])):
        monkeypatch.setattr(serve, "find_spec", lambda name, missing=package: None if name == missing else object())
        said = error_of(capsys, serve.main, [f"--prompts={prompts}", *line])
        assert said == f"error: serving needs {package}: pip install 'compt-fast[{extra}]'\n"


def test_help_is_there_at_once_and_says_how_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from compt_fast.serve import parser; parser().format_help(); "
    code += "print({'torch', 'fastapi', 'ray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "set()\n"
    with pytest.raises(SystemExit):
        serve.main(["--help"])
    said = capsys.readouterr().out
    assert "curl localhost:8000/v1/predict" in said and "exit codes" in said


@pytest.mark.slow
def test_a_process_answers_until_it_is_stopped(prompts: Path) -> None:
    """By Ctrl-C; tests/tools/test_soak_serve.py ends one by SIGTERM."""
    line = ["--host=0.0.0.0", "--port=0", f"--prompts={prompts}", "--max-wait-ms=1000", "--device=cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "compt_fast.serve", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {serve.TOKEN: TOKEN},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("serving mini_cola, mini_mnli, ") and " on http://0.0.0.0:" in first, process.communicate()
    port = int(first.rpartition(":")[2])
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
    assert ASK.get(f"{url}/v1/tasks").status_code == 401
    assert len(ASK.get(f"{url}/v1/tasks", headers=headers).json()["tasks"]) == 8
    with socket.create_connection(("127.0.0.1", port)) as asking:
        body = json.dumps(ROW)
        head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        asking.sendall((head + body).encode())
        while "compt_fast_queue_rows 1.0" not in ASK.get(f"{url}/metrics", headers=headers).text:
            pass
        process.send_signal(signal.SIGINT)
        assert asking.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert process.wait(30) == 130
    assert process.stderr is not None and process.stderr.read() == ""
