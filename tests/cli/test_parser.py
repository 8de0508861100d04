"""What is wrong with a command's line is one line, and names the nearest flag."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from compt_fast.cli import main as cli
from compt_fast.cli.parser import UNSUPPORTED, CommandLine
from tests.helpers.jobs import spawn


def said(capsys: pytest.CaptureFixture[str], command: str, line: list[str]) -> str:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"compt_fast.{command}").main(line)
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


RATES = "'--lr-source' or '--lr-private' or '--lr-encoder' or '--lr-router' or '--lr-update' or '--lr'"
MASKS = "'--masks' or '--mask-how' or '--mask-tokens'"


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("train", ["--seed", "1"], "unknown flag '--seed'. Did you mean '--seeds'?"),
        ("train", ["--seed=1"], "unknown flag '--seed'. Did you mean '--seeds'?"),
        ("train", ["-seeds", "1"], "unknown flag '-seeds'. Did you mean '--seeds'?"),
        ("train", ["--lr_source=1"], "Did you mean '--lr-source'?"),
        ("train", ["--noprefix"], "Did you mean '--no-prefix'?"),
        ("train", ["--zzzz"], "unknown flag '--zzzz'. (compt-fast train --help explains every flag)"),
        ("train", ["--learning-rate=1"], f"Did you mean {RATES}?"),
        ("train", ["--num_train_epochs=1"], "Did you mean '--epochs'?"),
        ("evaluate", ["runs/a", "--output-dir=b"], "Did you mean '--out'?"),
        ("train", ["rte"], "unexpected argument 'rte' (compt"),
        ("train", ["--eval-size", "3", "4"], "unexpected argument '4' (compt"),
        ("train", ["--seeds", "0", "1", "2"], "unexpected argument '1'; lists are written with commas and no blanks: "),
        ("train", ["--seeds", "0", "1", "2", "--steps=1"], "no blanks: --seeds 0,1,2 (compt"),
        ("train", ["--tasks=rte,", "cola"], "no blanks: --tasks rte,cola (compt"),
        ("evaluate", ["runs/a", "--runs", "b", "c"], "no blanks: --runs b,c (compt"),
        ("train", ["--seeds"], "argument --seeds: expected one argument (compt-fast train --help"),
        ("report", ["runs/a", "--outt", "b"], "unknown flag '--outt'. Did you mean '--out'?"),
        ("evaluate", ["runs/a", "--mask", "each"], f"unknown flag '--mask'. Did you mean {MASKS}?"),
        (
            "store",
            ["list", "--stor", "a"],
            "unknown flag '--stor'. Did you mean '--store'? (compt-fast store list --help",
        ),
        ("predict", ["--prompt=runs/a"], "unknown flag '--prompt'. Did you mean '--prompts'?"),
        ("predict", ["--prompts=a", "b"], "unexpected argument 'b' (compt"),
        ("info", ["--jsn"], "unknown flag '--jsn'. Did you mean '--json'?"),
    ],
)
def test_a_mistyped_flag_names_the_near_one(
    command: str, line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in said(capsys, command, line)


def test_every_command_reads_its_line_so() -> None:
    for name in cli.COMMANDS:
        source = importlib.import_module(f"compt_fast.{name}").__file__
        assert source is not None
        of = Path(source).parent.glob("*.py") if source.endswith("__init__.py") else [Path(source)]
        assert any("CommandLine(" in path.read_text(encoding="utf-8") for path in of), name


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_names_the_command(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as `python -m compt_fast.NAME`, where the script's own name is that of its file."""
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"compt_fast.{name}").main(["--help"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith(f"usage: compt-fast {name} ")


def test_windows_is_refused_in_words() -> None:
    """And before anything is imported that Windows has not."""
    code = (
        "import sys\n"
        "import importlib\n"
        "import compt_fast.utils.errors, rich, safetensors, yaml\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "sys.platform = 'win32'\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module('compt_fast.' + name).main(['--help'])\n"
        "    except SystemExit as left:\n"
        "        print(name, left.code)\n"
    )
    done = spawn(code, *cli.COMMANDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"{name} 2" for name in cli.COMMANDS]
    assert done.stderr == f"error: {UNSUPPORTED}\n" * len(cli.COMMANDS)


def test_values_that_begin_with_a_dash() -> None:
    made = CommandLine(prog="x")
    made.add_argument("--name")
    made.add_argument("rest", nargs="*")
    found = made.parse_args(["--name=--odd", "-3", "--", "--seed"])
    assert found.name == "--odd" and found.rest == ["-3", "--seed"]
