"""Where tables are printed, and that none of their cells is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compt_fast.cli.console import for_tables, print_table

TASKS = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "imdb", "multinli", "paws", "scitail"]
TASKS.append("yelp_polarity")
LONG = "-lr-source0.07-lr-private0.02-normalisationsoftmax-temperature-batch-size128"


def printed(width: int, heads: list[str], rows: list[list[str]], *, turn: bool = True) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False)
    with console.capture() as capture:
        print_table(console, heads, rows, turn=turn)
    return capture.get().splitlines()


@pytest.mark.parametrize("turn", [True, False])
@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("tasks", [1, 6, 8, 13])
@pytest.mark.parametrize("runs", [1, 12])
@pytest.mark.parametrize("suffix", ["", LONG], ids=["short", "long"])
def test_every_cell_is_whole_however_narrow_the_terminal(
    turn: bool, width: int, tasks: int, runs: int, suffix: str
) -> None:
    heads = ["run", "seeds", *(f"{task}\n(accuracy)" for task in TASKS[:tasks]), "average\n(paper)"]
    names = [f"spp-n{k}-k16{suffix}" for k in range(1, runs + 1)]
    cells = [[f"{k:02d}{c:02d}.5 ± 12.{c % 10}" for c in range(tasks + 2)] for k in range(1, runs + 1)]
    lines = printed(width, heads, [[name, *row] for name, row in zip(names, cells, strict=True)], turn=turn)
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    text = "\n".join(lines)
    assert all(text.count(cell) == 1 for row in cells for cell in row)
    assert all(task in text for task in TASKS[:tasks])
    if not suffix:
        assert all(name in text for name in names)


def test_a_name_in_several_lines_is_whole() -> None:
    rows = [["pt-k16" + LONG, *(["55.5 ± 10.1"] * 8)]]
    lines = printed(80, ["run", *TASKS[:8]], rows)
    first, *rest = [line[:26].strip() for line in printed(80, ["run", *TASKS[:8]], rows, turn=False)[2:7]]
    assert "".join([first, *rest]).startswith("pt-k16" + LONG) and first == "pt-k16-lr-source0.07-lr-"
    assert len(lines) == 4 + 2 + 8 or len(lines) < 20, "one run is a column, and every task a row"


def test_a_table_that_fits_is_left_as_it_is() -> None:
    assert printed(80, ["name", "task"], [["a", "rte"], ["b", "-"]]) == [
        "name   task",
        "───────────",
        "a       rte",
        "b         -",
    ]


def test_a_wide_table_is_one_in_a_file_and_as_wide_as_a_terminal() -> None:
    heads = ["run", *(f"[{k}] task" for k in range(8))]
    out = io.StringIO()
    narrow = Console(file=out, width=80, markup=False)
    print_table(narrow, heads, [["pt", *(f"{k}0.5 ± 10.0" for k in range(8))]], caption="percent")
    head, line, row, caption = out.getvalue().splitlines()
    assert all(cell in head for cell in heads), "neither cut nor read as markup"
    assert row.startswith("pt ") and row.rstrip().endswith("70.5 ± 10.0") and caption == "percent"
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert for_tables(terminal) is terminal
