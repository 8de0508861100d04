"""What README, docs and CONTRIBUTING name is there: files, anchors, commands, flags."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

from compt_fast.cli.main import COMMANDS
from tests.helpers.pages import PAGES, REPOSITORY, anchors, commands, links, paths, spans

STORE = ("list", "show", "add", "remove", "check")
OTHERS = {"--help", "--head", "--address", "--prepare", "--short", "--strict", "--benchmark-only", "--benchmark-json"}
"""Flags of other programs, and of the project's own that no parser of `argparse` has."""

named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def help_of(command: str, *words: str) -> str:
    said = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(said):
        importlib.import_module(f"compt_fast.{command}").main([*words, "--help"])
    return said.getvalue()


@named
def test_links_lead_to_files_and_anchors(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert file.is_relative_to(REPOSITORY), link
        assert not anchor or anchor in anchors(file), link


@named
def test_files_that_are_named_are_there(page: Path) -> None:
    for path in paths(page):
        roots = (REPOSITORY, REPOSITORY / "compt_fast")
        assert any(list(root.glob(path.rstrip("/"))) for root in roots), path


@named
def test_commands_are_there_and_take_these_flags(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        module, *words = shlex.split(re.sub(r"[\[\]]", " ", command))
        package, _, name = module.partition(".")
        if package != "compt_fast":
            file = REPOSITORY / f"{module.replace('.', '/')}.py"
            if package in ("benchmarks", "tests", "tools"):
                text = file.read_text(encoding="utf-8")
                flags = (word for word in words if word.startswith("--"))
                assert [flag for flag in flags if f'"{flag}"' not in text] == [], command
            continue
        if name == "NAME":  # a page that says how commands are called
            continue
        assert name in COMMANDS, command
        if name == "info":
            text = help_of(name)
            assert [word for word in words if word not in text] == [], command
            continue
        try:
            importlib.import_module(module).parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of the commands and of what is run by hand."""
    folders = ("tools", "benchmarks", "tests/helpers")
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in (REPOSITORY / folder).glob("*.py")]
    helps = [*map(help_of, COMMANDS), *(help_of("store", word) for word in STORE)]
    written = set(re.findall(r'"(--[a-z][a-z-]*)"', "\n".join(texts)))
    return OTHERS | written | set(re.findall(r"--[a-z][a-z-]*", "\n".join(helps)))


@named
def test_flags_in_the_text_exist(page: Path, flags: set[str]) -> None:
    for span in spans(page):
        if not span.startswith(("pip ", "uv ", "make ")):
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)) <= flags, span
