"""Spaces: what a table means, which points it has, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compt_fast.search.space import Axis, Span, read_space, space_of
from compt_fast.utils.errors import InputError
from tests.helpers.jobs import REPOSITORY

SPACES = sorted((REPOSITORY / "recipes" / "spaces").glob("*.toml"))
SPACE = """
method = ["spp", "pt"]
lr_private = {low = 0.01, high = 1.0, log = true}
prompt_length = {low = 2, high = 10, step = 4}

[when.method.spp]
sources = [2, 4]
gates = ["fixed", "learned"]

[when.method.spp.when.gates.learned]
lr_router = [0.1, 0.2]
"""


def first(axis: Axis) -> Any:
    return axis.over.ends[0]


def test_a_file_is_walked_in_the_order_of_conditions(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    space = read_space(path, {"seeds": [0]})
    assert [axis.name for axis in space.every_axis()] == [
        *("method", "sources[method=spp]", "gates[method=spp]", "lr_router[method=spp,gates=learned]"),
        *("lr_private", "prompt_length"),
    ]
    assert space.walk(first) == {
        "method": "spp",
        "sources[method=spp]": 2,
        "gates[method=spp]": "fixed",
        "lr_private": 0.01,
        "prompt_length": 2,
    }
    learned = space.walk(lambda axis: axis.over.ends[-1] if axis.key == "gates" else first(axis))
    assert learned["lr_router[method=spp,gates=learned]"] == 0.1
    assert space.values(learned) == {
        **{"method": "spp", "sources": 2, "gates": "learned", "lr_router": 0.1, "lr_private": 0.01, "prompt_length": 2},
        "seeds": [0],
    }
    assert space.walk(lambda axis: axis.over.ends[-1]) == {"method": "pt", "lr_private": 1.0, "prompt_length": 10}


def test_a_grid_has_every_point_once() -> None:
    table = {
        "method": ["spp", "pt"],
        "prompt_length": {"low": 2, "high": 10, "step": 4},
        "when": {"method": {"spp": {"sources": [2, 4], "lr_source": {"low": 0.1, "high": 0.3, "step": 0.1}}}},
    }
    space = space_of(table, "t", {})
    points = space.grid(0)
    assert len(points) == 3 * (2 * 3) + 3 == len({str(sorted(point.items())) for point in points})
    assert sorted(map(str, space.grid(1))) == sorted(map(str, points)) and space.grid(1) != points
    assert space.grid(0) == points
    assert {round(p["lr_source[method=spp]"], 9) for p in points if p["method"] == "spp"} == {0.1, 0.2, 0.3}
    with pytest.raises(InputError, match="--sampler grid: the range from 0.1 to 1.0 has no step"):
        space_of({"lr_source": {"low": 0.1, "high": 1.0}}, "t", {"method": "spp"}).grid(0)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 9))
def test_steps_of_a_range(low: int, more: int, step: int) -> None:
    """Of whole numbers as Python counts them, of tenths the same by tenths."""
    whole = Span(low, low + more, step, log=False, whole=True)
    assert whole.grid == list(range(low, low + more + 1, step))
    tenths = Span(low / 10, (low + more) / 10, step / 10, log=False, whole=False).grid
    assert tenths is not None and [round(10 * value) for value in tenths] == whole.grid


def test_what_a_method_has_no_use_for_is_left_out() -> None:
    space = space_of({"sources": [2, 4], "method": ["pt", "spp"]}, "t", {"gates": "learned", "seeds": [0]})
    points = [space.walk(lambda axis: "pt" if axis.key == "method" else 4), space.walk(lambda axis: axis.over.ends[-1])]
    assert points == [{"method": "pt"}, {"method": "spp", "sources": 4}]
    assert space.values(points[0]) == {"method": "pt", "seeds": [0]}  # pt has no gates
    assert space.values(points[1]) == {"method": "spp", "sources": 4, "gates": "learned", "seeds": [0]}


def test_several_values_share_a_condition(tmp_path: Path) -> None:
    """What both methods have is one axis, from which a sampler learns of both."""
    table = {"method": ["spp", "scp", "pt"], "when": {"method": {"spp,scp": {"sources": [2, 4]}}}}
    space = space_of(table, "t", {})
    assert [axis.name for axis in space.every_axis()] == ["method", "sources[method=spp|scp]"]
    assert len(space.grid(0)) == 5


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_spaces_of_the_project(path: Path) -> None:
    space = read_space(path, {"seeds": [0], **({} if "method" in path.read_text() else {"method": "spp"})})
    assert space.sample(20)
    if path.stem == "spp":
        assert len(space.grid(0)) == 81


def test_what_is_fixed_is_searched_no_more() -> None:
    table = {"method": ["spp", "pt"], "lr_private": [0.1], "when": {"method": {"spp": {"sources": [2, 4]}}}}
    space = space_of(table, "t", {"method": "spp"})
    assert [axis.name for axis in space.axes] == ["lr_private", "sources[method=spp]"]
    assert [axis.name for axis in space_of(table, "t", {"method": "pt"}).axes] == ["lr_private"]


def test_a_large_space_is_sampled() -> None:
    table = {name: {"low": 0.1, "high": 1.0} for name in ("lr_source", "lr_private", "clip_norm", "warmup")}
    space = space_of(table, "t", {"method": "spp"})
    assert len(space.sample(16)) == 16 and len(space.sample(5)) == 5
    assert {value for point in space.sample(5) for value in point.values()} == {0.1, 1.0}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lr_sorce": [0.1]}, "unknown flag in t: 'lr_sorce'. Did you mean 'lr_source'"),
        ({"gates": ["lerned"]}, "unknown value of t: gates 'lerned'. Did you mean 'learned'"),
        ({"lr_source": [-1]}, "t: lr_source: --lr-source must not be negative"),
        ({"lr_source": []}, "t: lr_source is empty"),
        ({"lr_source": [0.1, "0.1"]}, "t: lr_source names a value twice"),
        ({"lr_source": {"low": 0.1, "hihg": 1}}, "unknown key in t: lr_source: 'hihg'. Did you mean 'high'"),
        ({"lr_source": {"low": 0.1}}, "t: lr_source: a range needs low and high"),
        ({"lr_source": {"low": 1.0, "high": 0.1}}, "t: lr_source: low is below high"),
        ({"lr_source": {"low": 0.0, "high": 0.1, "log": True}}, "with log, low is above 0"),
        ({"lr_source": {"low": 0.1, "high": 0.2, "log": 1}}, "log is true or false"),
        ({"lr_source": {"low": 0.1, "high": 0.2, "step": 1}}, "step is above 0 and at most high - low"),
        ({"prompt_length": {"low": 1.5, "high": 3}}, "t: prompt_length: low takes a whole number"),
        ({"gates": {"low": 1, "high": 3}}, "t: gates: a range is of numbers; list values"),
        ({"seeds": [0, 1]}, "a search chooses no seed; name those of each trial with --seeds"),
        ({"runs_at_once": [4]}, "runs_at_once is one for the whole job; give it as --runs-at-once"),
        ({"when": {"gates": {"learned": {"lr_router": [1]}}}}, "gates is not chosen in the table beside it"),
        ({"gates": ["fixed"], "when": {"gates": {"learned": {}}}}, "unknown value in t: when.gates: 'learned'"),
        ({"when": {"method": {"spp": 3}}}, "t: when.method.spp is a table"),
        ({"lr_source": {"low": 1, "high": 2}, "when": {"lr_source": {"1": {}}}}, "a condition is on one of listed"),
        ({"method": ["spp"], "sources": [1], "when": {"method": {"spp": {"sources": [2]}}}}, "sources is chosen twice"),
        ({"gates": ["fixed"], "when": {"gates": {"fixed": {"method": ["pt"]}}}}, "method stands under a condition"),
        ({"steps": [10], "epochs": [5, 6]}, "steps and epochs exclude each other"),
        ({}, "nothing to choose"),
    ],
)
def test_refused(table: dict[str, Any], message: str) -> None:
    fixed = {} if "method" in table else {"method": "spp"}
    with pytest.raises(InputError) as refused:
        space_of(table, "t", fixed)
    assert message in str(refused.value)


def test_a_method_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no method: list some"):
        space_of({"lr_source": [0.1, 0.2]}, "t", {})
    (tmp_path / "space.json").write_text("[1]")
    with pytest.raises(InputError, match="a space is a table of flags"):
        read_space(tmp_path / "space.json", {})
