"""Where tables are printed."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from compt_fast.console import for_tables


def test_a_wide_table_is_whole_in_a_file_and_as_wide_as_a_terminal() -> None:
    row = [f"[{k}] cell of a task" for k in range(8)]
    table = Table(*row)
    table.add_row(*row)
    out = io.StringIO()
    narrow = Console(file=out, width=80, markup=False)
    for_tables(narrow).print(table)
    assert all(cell in out.getvalue() for cell in row), "neither cut nor read as markup"
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert for_tables(terminal) is terminal
