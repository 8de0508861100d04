"""The rooms of the package, and that imports go down them: a room knows those before it, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOMS = (
    *("utils", "cli", "config", "mini", "tasks", "kernels", "native", "prompts", "ops", "models"),
    *("evaluation", "training", "baselines", "search", "runs", "scaling"),
    *("prediction", "exports", "analysis", "serving"),
)
COMMANDS = "commands"  # the modules beside the rooms, which know all of them


def room_of(module: str) -> str:
    """The room of a dotted name; "" outside of the package, and for the package itself."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    return "" if package != "compt_fast" or not rest else first if first in ROOMS else COMMANDS


def imported(path: Path) -> Iterator[str]:
    """Every module, or name of one, that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_imports_go_down(repository: Path) -> None:
    order = [*ROOMS, COMMANDS]
    upwards = []
    for folder, prefix in (("compt_fast", "compt_fast"), ("kernels", "compt_fast.kernels")):
        for path in sorted((repository / folder).rglob("*.py")):
            own = room_of(".".join((prefix, *path.relative_to(repository / folder).with_suffix("").parts)))
            for name in imported(path):
                if (other := room_of(name)) and order.index(other) > order.index(own):
                    upwards.append(f"{path.relative_to(repository)} imports {name}")
    assert not upwards


def test_every_folder_is_a_room(repository: Path) -> None:
    found = {path.name for path in (repository / "compt_fast").iterdir() if (path / "__init__.py").is_file()}
    assert found | {"kernels"} == set(ROOMS)  # kernels/ lies beside the package
