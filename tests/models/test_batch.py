"""Ragged rows and prompts, and what is refused."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from compt_fast.models.batch import Batch, TargetPrompts, join, longest_first, make_batch


def test_prompts_of_unlike_lengths_keep_their_order_and_lengths() -> None:
    parts = [torch.randn(size, 3) for size in (2, 0, 4)]
    prompts = TargetPrompts.from_stacks(parts)
    assert prompts.slots == 3
    assert prompts.lengths.tolist() == [2, 0, 4]
    for slot, part in enumerate(parts):
        assert torch.equal(prompts.flat[prompts.cu_seqlens[slot] : prompts.cu_seqlens[slot + 1]], part)


def test_prompts_from_stacks_number_runs_before_tasks_and_stacks_in_order() -> None:
    first, second = torch.randn(2, 3, 4, 5), torch.randn(1, 2, 7, 5)
    prompts = TargetPrompts.from_stacks([first, second])
    assert prompts.lengths.tolist() == [4] * 6 + [7] * 2
    expected = [first[run, task] for run in range(2) for task in range(3)]
    expected += [second[0, task] for task in range(2)]
    for slot, prompt in enumerate(expected):
        assert torch.equal(prompts.flat[prompts.cu_seqlens[slot] : prompts.cu_seqlens[slot + 1]], prompt)


def test_gradients_pass_through() -> None:
    part = torch.randn(2, 3, requires_grad=True)
    stack = torch.randn(2, 2, 2, 3, requires_grad=True)
    TargetPrompts.from_stacks([part, part]).flat.sum().backward()
    (2 * TargetPrompts.from_stacks([stack]).flat).sum().backward()
    assert part.grad is not None and torch.equal(part.grad, torch.full_like(part, 2))
    assert stack.grad is not None and torch.equal(stack.grad, torch.full_like(stack, 2))


@pytest.mark.parametrize(
    ("flat", "cu_seqlens", "message"),
    [
        (torch.zeros(4), [0, 4], "float tensor"),
        (torch.zeros(4, 2, dtype=torch.int64), [0, 4], "float tensor"),
        (torch.zeros(4, 2), [0, 3], "from 0 to 4"),
        (torch.zeros(4, 2), [1, 4], "from 0 to 4"),
        (torch.zeros(4, 2), [0, 3, 2, 4], "from 0 to 4"),
        (torch.zeros(4, 2), [], "one-dimensional int64"),
        (torch.zeros(4, 2), [0.0, 4.0], "one-dimensional int64"),
    ],
)
def test_bad_prompts_are_refused(flat: torch.Tensor, cu_seqlens: list, message: str) -> None:
    kind = torch.float32 if cu_seqlens and isinstance(cu_seqlens[0], float) else torch.int64
    with pytest.raises(ValueError, match=message):
        TargetPrompts(flat, torch.tensor(cu_seqlens, dtype=kind))


def test_no_prompts_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TargetPrompts.from_stacks([])


def test_a_batch_holds_its_rows() -> None:
    inputs, labels = [[5, 6, 1], [7, 1]], [[8, 1], [9, 9, 1]]
    batch = make_batch(inputs, labels, [3, 0])
    assert (batch.rows, batch.input_tokens) == (2, 5)
    assert batch.input_lengths.tolist() == [3, 2]
    assert batch.label_lengths.tolist() == [2, 3]
    assert batch.slots.tolist() == [3, 0]
    cut = batch.input_cu_seqlens.tolist()
    assert [batch.input_ids[cut[b] : cut[b + 1]].tolist() for b in range(2)] == inputs
    cut = batch.label_cu_seqlens.tolist()
    assert [batch.label_ids[cut[b] : cut[b + 1]].tolist() for b in range(2)] == labels


def test_a_batch_to_decode_has_no_labels() -> None:
    batch = make_batch([[5, 1], [1]], None, [0, 0])
    assert batch.label_ids.dtype == torch.int64
    assert batch.label_lengths.tolist() == [0, 0]


def test_moving_a_batch_leaves_its_layout_on_the_host() -> None:
    moved = make_batch([[5, 1]], [[2, 1]], [0]).to("meta")
    assert isinstance(moved, Batch)
    assert moved.input_ids.device.type == moved.label_ids.device.type == "meta"
    for host in (moved.input_cu_seqlens, moved.label_cu_seqlens, moved.slots):
        assert host.device.type == "cpu"


@pytest.mark.parametrize(
    ("inputs", "labels", "slots", "message"),
    [
        ([], None, [], "at least one row"),
        ([[1]], None, [0, 1], "1 inputs, no labels and 2 slots"),
        ([[1]], [[1], [1]], [0], "1 inputs, 2 labels and 1 slots"),
        ([[1], []], None, [0, 0], "row 1 has no input"),
        ([[1], [1]], [[], [1]], [0, 0], "row 0 has no label"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(inputs, labels, slots, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch(inputs, labels, slots)


def test_rows_are_taken_in_any_order() -> None:
    batch = make_batch([[1, 2, 3], [4], [5, 6]], [[7], [8, 9], [10]], [2, 0, 1])
    for rows in ([2, 0, 1], [1], [0, 1, 2]):
        found = batch.take(torch.tensor(rows))
        wanted = make_batch(
            [[[1, 2, 3], [4], [5, 6]][row] for row in rows],
            [[[7], [8, 9], [10]][row] for row in rows],
            [[2, 0, 1][row] for row in rows],
        )
        same(found, wanted)
        assert found.parts == [slice(0, len(rows))]


def same(found: Batch, wanted: Batch) -> None:
    for part in fields(Batch):
        if part.name != "joined":
            assert torch.equal(getattr(found, part.name), getattr(wanted, part.name)), part.name


def test_batches_are_joined_one_after_the_other_and_shared_prompts_are_there_once() -> None:
    some, other = (TargetPrompts.from_stacks([torch.full((2, length, 4), 1.0 * length)]) for length in (3, 1))
    batches = [make_batch(ids, None, slots) for ids, slots in (([[1, 2], [3]], [1, 0]), ([[4]], [1]), ([[5, 6]], [0]))]
    prompts, batch = join([(some, batches[0]), (other, batches[1]), (some, batches[2])])
    same(batch, make_batch([[1, 2], [3], [4], [5, 6]], None, [1, 0, 3, 0]))
    assert batch.joined == (2, 1, 1) and batch.parts == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert prompts.lengths.tolist() == [3, 3, 1, 1] and prompts.flat[:, 0].tolist() == [3.0] * 6 + [1.0] * 2


def test_the_longest_rows_come_first_and_equal_ones_as_they_were() -> None:
    assert longest_first(torch.tensor([2, 9, 1, 9, 2])).tolist() == [1, 3, 0, 4, 2]
