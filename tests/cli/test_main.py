"""The console script: it reaches every command and imports nothing that need not be."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import compt_fast
from compt_fast.cli import main as cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compt_fast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_reached_with_the_rest_of_the_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(importlib.import_module(f"compt_fast.{name}"), "main", lambda argv: seen.append(argv) or 3)
    assert cli.main([name, "--flag", "value"]) == 3
    assert seen == [["--flag", "value"]]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_names_the_command(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: compt-fast {name} " in done.stdout.replace("\n", " ")


def test_python_m_runs_a_command() -> None:
    done = run("info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compt_fast"] == compt_fast.__version__


def test_help_and_version_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"compt_fast {compt_fast.__version__}\n"
    assert cli.main([]) == 2
    assert "usage: compt-fast" in capsys.readouterr().err


def test_a_mistyped_command_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: unknown command 'trian'")
    assert "'train'" in said.err


def test_importing_the_package_and_its_script_loads_nothing_heavy() -> None:
    code = (
        "import sys, compt_fast, compt_fast.cli.main, compt_fast.info\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
