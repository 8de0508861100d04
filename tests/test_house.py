"""What keeps the code easy to read: short functions and files, comments in kernels, nothing that stands twice."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

CODE = ("compt_fast", "kernels", "csrc", "tools", "benchmarks", "tests", "docs")
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60
KERNELS = ("adamw_device", "attention", "backward", "forward", "tiles")
TWICE = 6  # lines


def files(repository: Path, *folders: str, suffixes: tuple[str, ...] = (".py",)) -> Iterator[Path]:
    """The files of these folders that are source."""
    for folder in folders:
        yield from (path for path in sorted((repository / folder).rglob("*")) if path.suffix in suffixes)


def test_files_and_functions_are_short(repository: Path) -> None:
    long = []
    for path in files(repository, *CODE, suffixes=(".py", ".cpp", ".h", ".cu")):
        text = path.read_text(encoding="utf-8")
        long += [str(path)] * (text.count("\n") > MOST_LINES)
        for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{path}: {node.name}, {length} lines"] * (length > MOST_OF_A_FUNCTION)
    assert not long


def test_kernels_say_what_their_tiles_are(repository: Path) -> None:
    lines = [line.strip() for name in KERNELS for line in (repository / f"kernels/{name}.py").read_text().splitlines()]
    assert sum(line.startswith("#") for line in lines) / len(lines) >= 0.05


def statements(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that do something, without blanks: no imports, comments, docstrings or closing brackets, and
    no functions' heads, in which interfaces repeat themselves.
    """
    text = path.read_text(encoding="utf-8")
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if said or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            skipped |= set(range(first, node.body[0].lineno))
    numbered = enumerate(map(str.strip, text.splitlines()), start=1)
    return [(n, line) for n, line in numbered if n not in skipped and re.search(r"\w", line) and line[0] != "#"]


def test_no_six_lines_stand_twice(repository: Path) -> None:
    places = defaultdict(list)
    for path in files(repository, "compt_fast", "kernels"):
        lines = statements(path)
        for at in range(len(lines) - TWICE + 1):
            part = lines[at : at + TWICE]
            places["\n".join(line for _, line in part)].append(f"{path.relative_to(repository)}:{part[0][0]}")
    assert not [where for where in places.values() if len(where) > 1]


@pytest.mark.parametrize(("text", "kept"), [('"""Doc."""\nimport os\n# why\nx = (\n    1\n)\n', ["x = (", "1"])])
def test_what_counts_as_a_statement(text: str, kept: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert [line for _, line in statements(tmp_path / "a.py")] == kept
