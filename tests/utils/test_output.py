"""An output that is closed, full, or knows ASCII alone."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compt_fast import info, train
from compt_fast.training.monitor import Monitor
from compt_fast.utils import output
from compt_fast.utils.errors import exit_code
from compt_fast.utils.output import OutputError, guarded
from tests.helpers.jobs import Line, equal


class Failing(io.StringIO):
    """A stream that fails with the error `number` from a piece of text on that holds `last`."""

    def __init__(self, number: int, last: str = "") -> None:
        super().__init__()
        self.number, self.last = number, last

    def write(self, text: str) -> int:
        if self.last in text:
            self.last = ""
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(errno.EPIPE, 141, ""), (errno.ENOSPC, 2, "error: standard output cannot be written (No space left on device)\n")],
)
@pytest.mark.parametrize("last", ["2 runs (mst, spp)", "(1 of 2 runs ended)", "(2 of 2 runs ended)"])
def test_a_job_whose_output_fails_goes_on_with_the_same_bits(
    last: str,
    number: int,
    code: int,
    says: str,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At its plan, at the first of two runs that end, and at the second."""
    flags = {"method": "mst,spp", "runs_at_once": 1, "steps": 3}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Failing(number, last))
        assert train.main(line(tmp_path / "cut", **flags)) == code
    said = capsys.readouterr().err
    if "ended" in last:
        assert f"go on with: python -m compt_fast.train --resume {tmp_path / 'cut'}\n" in said
        assert list((tmp_path / "cut" / "checkpoints").iterdir())
        assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    else:
        assert not (tmp_path / "cut").exists()
        assert train.main(line(tmp_path / "cut", **flags)) == 0
    assert said.endswith(says) and "Traceback" not in said
    equal(tmp_path / "cut", tmp_path / "whole")


def test_a_terminal_that_knows_ascii_alone(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert train.main(line(tmp_path / "prüfung", method="pt", seeds="0,1", steps=1)) == 0
    assert b"pr?fung" in raw.getvalue() and raw.getvalue().isascii()


def test_a_closed_terminal_ends_a_job_with_a_checkpoint(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.main(line(tmp_path / "whole", method="pt")) == 0
    step = Monitor.step

    def hung_up(self: Monitor, *rest: object, **named: float) -> None:
        step(self, *rest, **named)
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as it is without nohup
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "step", hung_up)
            assert train.main(line(tmp_path / "cut", method="pt")) == 129
    finally:
        signal.signal(signal.SIGHUP, before)
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    equal(tmp_path / "cut", tmp_path / "whole")


def test_only_the_first_failure_is_told_and_in_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(errno.EIO))
    with guarded():
        bar = threading.Thread(target=lambda: print("from a bar's thread"))
        bar.start()
        bar.join()
        with pytest.raises(OutputError, match="Input/output error"):
            print("from the main thread")
        print("dropped")
    assert isinstance(sys.stdout, Failing)


def test_ctrl_c_ends_any_command_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "report", interrupted)
    assert info.main([]) == 130 and capsys.readouterr() == ("", "")


def test_a_dead_standard_error_is_no_second_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Failing(errno.EIO))
    output.complain("nobody reads this")

    def wrong() -> int:
        raise output.OutputError(OSError(errno.ENOSPC, "No space left on device"))

    assert exit_code(wrong) == 2


HELP = [sys.executable, "-m", "compt_fast", "train", "--help"]


@pytest.mark.parametrize("shell", ["{} | true", "{} > /dev/full"])
def test_the_process_ends_without_a_word_of_python(shell: str, repository: Path) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell.format(" ".join(HELP))], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
