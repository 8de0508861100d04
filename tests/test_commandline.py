"""What is wrong with a command's line is one line, and names the nearest flag."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from compt_fast import cli
from compt_fast.commandline import CommandLine


def said(capsys: pytest.CaptureFixture[str], command: str, line: list[str]) -> str:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"compt_fast.{command}").main(line)
    out, err = capsys.readouterr()
    assert left.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("train", ["--seed", "1"], "unknown flag '--seed'. Did you mean '--seeds'?"),
        ("train", ["--seed=1"], "unknown flag '--seed'. Did you mean '--seeds'?"),
        ("train", ["-seeds", "1"], "unknown flag '-seeds'. Did you mean '--seeds'?"),
        ("train", ["--lr_source=1"], "Did you mean '--lr-source'?"),
        ("train", ["--noprefix"], "Did you mean '--no-prefix'?"),
        ("train", ["--zzzz"], "unknown flag '--zzzz'. (compt-fast train --help explains every flag)"),
        ("train", ["rte"], "unexpected argument 'rte'"),
        ("train", ["--seeds"], "argument --seeds: expected one argument (compt-fast train --help"),
        ("report", ["runs/a", "--outt", "b"], "unknown flag '--outt'. Did you mean '--out'?"),
        ("evaluate", ["runs/a", "--mask", "each"], "unknown flag '--mask'. Did you mean '--masks'?"),
        (
            "store",
            ["list", "--stor", "a"],
            "unknown flag '--stor'. Did you mean '--store'? (compt-fast store list --help",
        ),
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


def test_values_that_begin_with_a_dash() -> None:
    made = CommandLine(prog="x")
    made.add_argument("--name")
    made.add_argument("rest", nargs="*")
    found = made.parse_args(["--name=--odd", "-3", "--", "--seed"])
    assert found.name == "--odd" and found.rest == ["-3", "--seed"]
