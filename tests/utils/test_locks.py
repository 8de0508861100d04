"""Locks among processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compt_fast.utils.errors import InputError
from compt_fast.utils.locks import locked

HOLDER = """
import sys; from pathlib import Path; from compt_fast.utils.locks import locked
with locked(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_owner_is_named_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = holder(path)
    at_work = rf"{tmp_path}: process {other.pid} on \S+ is at work on it; wait"
    with pytest.raises(InputError, match=at_work), locked(path, wait=False, busy="wait"):
        raise AssertionError
    other.kill()
    other.communicate()
    assert path.exists()
    with locked(path, wait=False):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_who_waits_gets_it_and_another_file_of_the_same_name_is_not_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = holder(path)
    second = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    first.communicate("")  # which removes the file that the second one waits for
    assert second.stdout is not None and second.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {second.pid}"), locked(path, wait=False):
        raise AssertionError
    second.communicate("")
    assert not path.exists()


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError), locked(tmp_path / "lock", wait=False):
        raise AssertionError
    assert not (tmp_path / "victim").exists()
