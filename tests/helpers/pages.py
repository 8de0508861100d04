"""The pages that a reader meets, and what they name: links, commands, flags, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *(REPOSITORY / name / "README.md" for name in ("recipes", "kernels", "compt_fast/mini")),
    ]
)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}(.*)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its fenced code blocks."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """What stands between backticks within the prose."""
    return _SPAN.findall(prose(page))


def links(page: Path) -> list[str]:
    """The targets of links and pictures that lie in the repository."""
    return [target for target in _LINK.findall(prose(page)) if ":" not in target]


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def commands(page: Path) -> Iterator[str]:
    """Every `python -m MODULE ...` of the page's code, each in one line without its comment."""
    whole = page.read_text(encoding="utf-8")
    code = [*_FENCED.findall(whole), *_INDENTED.findall(prose(page)), *spans(page)]
    for text in code:
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
                if found := re.search(r"\bpython -m (\S.*)", part):
                    yield found[1].strip()


def paths(page: Path) -> list[str]:
    """The files and folders of the repository that the prose names, from its root or from the package."""
    found = []
    for span in spans(page):
        first, slash, _ = span.partition("/")
        known = any((root / first).is_dir() for root in (REPOSITORY, REPOSITORY / "compt_fast"))
        if slash and known and re.fullmatch(r"[\w./*-]+", span):
            found.append(span)
    return found
