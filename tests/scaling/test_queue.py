"""Who gets which run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compt_fast.scaling import queue
from compt_fast.scaling.queue import WORTH, Load, next_runs, share_of, to_move


@dataclass(frozen=True)
class Named:
    """As much of a run as the queue looks at."""

    id: str
    alone: bool = False


def chosen(waiting: str, mine: str, share: int) -> str:
    """`next_runs` of runs that are a letter each, a capital one that of a run that trains alone."""
    runs = [[Named(letter, letter.isupper()) for letter in text] for text in (waiting, mine)]
    return "".join(run.id for run in next_runs(*runs, share))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waiting", "mine", "share", "enter"),
    [
        ("abcd", "", 2, "ab"),
        ("abcd", "x", 2, "a"),
        ("abcd", "xy", 2, ""),
        ("abcd", "xyz", 2, ""),
        ("Aab", "", 2, "A"),  # the dearest is one that trains alone
        ("aAb", "", 2, "ab"),
        ("Aab", "x", 2, "a"),
        ("AB", "", 2, "A"),
        ("AB", "x", 2, ""),
        ("ab", "X", 2, ""),
        ("", "", 2, ""),
    ],
)
def test_the_dearest_enter_and_what_trains_alone_is_alone(waiting: str, mine: str, share: int, enter: str) -> None:
    assert chosen(waiting, mine, share) == enter


@given(st.integers(0, 10_000), st.integers(0, 600), st.integers(1, 64))
def test_a_share_is_the_width_or_all_get_as_much(left: int, trainers: int, width: int) -> None:
    share = share_of(left, trainers, width)
    assert 1 <= share <= width
    assert share == width or share * max(1, trainers) >= left > (share - 1) * max(1, trainers) or left == 0


loads = st.lists(
    st.builds(Load, st.dictionaries(st.text("abc", min_size=1), st.integers(0, 99), max_size=8), st.floats(0, 9)),
    max_size=6,
)


@given(loads, st.integers(-2, 7))
def test_no_trainer_is_left_without_a_run_and_no_idle_one_gets_two_parts(loads: list[Load], idle: int) -> None:
    moves = to_move(loads, idle)
    assert len(moves) <= max(0, idle)
    for at, names in moves.items():
        assert names and set(names) < loads[at].runs.keys()
        assert len(names) <= len(loads[at].runs) // 2
        assert all(loads[at].pace * loads[at].runs[name] >= WORTH for name in names)


def test_half_of_the_last_to_end_moves() -> None:
    short, long = Load({"a": 100, "b": 90}, 0.1), Load({"c": 1000, "d": 900, "e": 800, "f": 1}, 0.1)
    assert to_move([short, long], 1) == {1: ["d"]}  # f is nearly through
    assert to_move([short, long], 2) == {1: ["d"], 0: ["b"]}
    assert to_move([Load({"a": 100}, 1.0)], 1) == {}
    assert queue.WORTH > 0
