from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.tasks.sampling import (
    Draw,
    EpochOrder,
    draw_development,
    draw_training,
    evaluation_indices,
    fixed_order,
)
from compt_fast.tasks.table import TASKS, Task
from compt_fast.utils.errors import InputError

RTE, MNLI, STSB = TASKS["rte"], TASKS["mnli"], TASKS["stsb"]
LABELS = np.arange(300) % 3
NOTHING = np.empty(0, dtype=np.int64)


def draw_shots(
    labels: np.ndarray, task: Task, shots: int | None, seed: int, sampling: str, max_train: int
) -> tuple[np.ndarray, np.ndarray]:
    """The examples of a run, and its development sample, where nothing was seen before."""
    draw = Draw(shots, seed, sampling, max_train)
    train = draw_training(labels, task, draw, development=True)
    return train, draw_development(labels, task, draw, NOTHING)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=2, max_size=5),
    shots=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_balanced_draws(counts: list[int], shots: int, seed: int) -> None:
    task = replace(RTE, labels=tuple("abcde"[: len(counts)]))
    labels = np.repeat(np.arange(len(counts)), counts)
    try:
        train, development = draw_shots(labels, task, shots, seed, "balanced", 5000)
    except InputError:
        assert min(counts) < -(-shots // len(counts))
        return
    drawn = np.bincount(labels[train], minlength=len(counts))
    assert drawn.sum() == shots and drawn.max() - drawn.min() <= 1
    assert len({*train, *development}) == len(train) + len(development)
    assert len(development) == min(shots, len(labels) - shots)


@settings(deadline=None)
@given(n=st.integers(1, 60), shots=st.integers(1, 60), seed=st.integers(0, 99))
def test_random_draws(n: int, shots: int, seed: int) -> None:
    labels = np.zeros(n, dtype=np.int64)
    if shots > n:
        with pytest.raises(InputError, match=f"{shots} shots, but the training split has {n} rows"):
            draw_shots(labels, RTE, shots, seed, "random", 5000)
        return
    train, development = draw_shots(labels, RTE, shots, seed, "random", 5000)
    assert len(train) == shots
    assert len(development) == min(shots, n - shots)
    assert len({*train, *development}) == len(train) + len(development)


def test_development_is_balanced_too() -> None:
    _, development = draw_shots(LABELS, MNLI, 30, 0, "balanced", 5000)
    assert np.bincount(LABELS[development]).tolist() == [10, 10, 10]


def test_more_shots_continue_fewer() -> None:
    for sampling in ("balanced", "random"):
        few, _ = draw_shots(LABELS, MNLI, 8, 5, sampling, 5000)
        many, _ = draw_shots(LABELS, MNLI, 32, 5, sampling, 5000)
        assert few.tolist() == many[:8].tolist()


def test_the_seed_and_the_task_decide_a_draw() -> None:
    def draw(seed: int, name: str) -> list[int]:
        return draw_shots(LABELS, replace(MNLI, name=name), 16, seed, "balanced", 5000)[0].tolist()

    assert draw(3, "a") == draw(3, "a")
    assert len({tuple(draw(seed, name)) for seed in range(10) for name in "ab"}) == 20


def test_which_class_has_one_more_is_drawn() -> None:
    extra = {
        int(np.bincount(LABELS[draw_shots(LABELS, MNLI, 16, seed, "balanced", 5000)[0]]).argmax()) for seed in range(20)
    }
    assert extra == {0, 1, 2}


def test_draws_stay_what_they_are() -> None:
    """A seed means the same rows in every version: results can be compared."""
    train, development = draw_shots(LABELS, MNLI, 4, 0, "balanced", 5000)
    assert (train.tolist(), development.tolist()) == ([65, 94, 198, 35], [253, 285, 230, 205])
    assert fixed_order(300)[:6].tolist() == [208, 188, 12, 221, 239, 136]
    assert EpochOrder(10, 4, seed=1).batch(5).tolist() == [4, 5]


def test_scores_are_drawn_uniformly() -> None:
    scores = np.linspace(0, 5, 100)
    train, development = draw_shots(scores, STSB, 16, 0, "balanced", 5000)
    again, _ = draw_shots(scores, STSB, 16, 0, "random", 5000)
    assert train.tolist() == again.tolist()
    assert len({*train, *development}) == 32


def test_a_class_with_too_few_rows() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    message = "rte: 16 .* need 8 rows labelled 'not_entailment', .* has 3; lower --shots or draw"
    with pytest.raises(InputError, match=message):
        draw_shots(labels, RTE, 16, 0, "balanced", 5000)
    assert len(draw_shots(labels, RTE, 16, 0, "random", 5000)[0]) == 16


@pytest.mark.parametrize(
    ("rows", "max_train", "train", "development"),
    [(10000, 5000, 5000, 300), (1000, 5000, 900, 100), (9, 5000, 9, 0), (5100, 5000, 4800, 300)],
)
def test_all_rows(rows: int, max_train: int, train: int, development: int) -> None:
    drawn = draw_shots(np.zeros(rows, dtype=np.int64), RTE, None, 0, "balanced", max_train)
    assert tuple(map(len, drawn)) == (train, development)
    assert len({*drawn[0], *drawn[1]}) == train + development


def test_bad_values() -> None:
    with pytest.raises(InputError, match="unknown sampling 'ballanced'.*Did you mean 'balanced'"):
        draw_shots(LABELS, MNLI, 3, 0, "ballanced", 5000)
    with pytest.raises(InputError, match="seed -1: it must be a whole number from 0"):
        draw_shots(LABELS, MNLI, 3, -1, "balanced", 5000)


@settings(deadline=None)
@given(n=st.integers(1, 500), size=st.integers(1, 600))
def test_evaluation_rows(n: int, size: int) -> None:
    chosen = evaluation_indices(n, size).tolist()
    assert len(chosen) == len(set(chosen)) == min(n, size)
    assert evaluation_indices(n, max(1, size // 2)).tolist() == chosen[: max(1, size // 2)]


@settings(deadline=None)
@given(rows=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 9))
def test_every_epoch_holds_every_row_once(rows: int, batch: int, seed: int) -> None:
    order = EpochOrder(rows, batch, seed)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        batches = [order.batch(step) for step in steps]
        assert all(len(part) == batch for part in batches[:-1])
        assert sorted(np.concatenate(batches).tolist()) == list(range(rows))


def test_order_of_steps_does_not_matter() -> None:
    forth, back = EpochOrder(50, 8, seed=2), EpochOrder(50, 8, seed=2)
    expected = [forth.batch(step).tolist() for step in range(20)]
    assert [back.batch(step).tolist() for step in reversed(range(20))] == expected[::-1]


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(EpochOrder(50, 50, seed).batch(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_all_rows_are_trained_on_where_none_is_to_be_set_aside() -> None:
    labels, draw = np.zeros(1000, dtype=np.int64), Draw(None, 0, "balanced", 5000)
    whole = draw_training(labels, RTE, draw, development=False)
    assert sorted(whole) == list(range(1000))
    assert draw_training(labels, RTE, draw, development=True).tolist() == whole[:900].tolist()


@settings(deadline=None)
@given(seen=st.sets(st.integers(0, 299)), shots=st.sampled_from([8, 32, None]), seed=st.integers(0, 99))
def test_no_development_sample_holds_a_row_that_was_seen(seen: set[int], shots: int | None, seed: int) -> None:
    draw = Draw(shots, seed, "balanced", 100)
    train = set(draw_training(LABELS, MNLI, draw, development=True).tolist())
    development = draw_development(LABELS, MNLI, draw, np.array(sorted(seen), dtype=np.int64)).tolist()
    assert not set(development) & (seen | train) and len(set(development)) == len(development)
    assert len(development) == min(shots or 30, 300 - len(seen | train))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 80))
def test_rows_of_a_group_are_scored_together(numbers: list[int], size: int) -> None:
    groups = np.array(numbers)
    chosen = evaluation_indices(len(groups), size, groups)
    assert len(set(chosen.tolist())) == len(chosen)
    scored = set(groups[chosen].tolist())
    assert sorted(chosen.tolist()) == [k for k, group in enumerate(numbers) if group in scored]
    assert len(chosen) <= size or len(scored) == 1
    if size >= len(groups):
        assert len(chosen) == len(groups)
    more = evaluation_indices(len(groups), size + 5, groups)
    assert more[: len(chosen)].tolist() == chosen.tolist()
