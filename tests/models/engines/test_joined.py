"""Batches that are joined are answered as each is alone, on a CPU to the last bit."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.models.batch import Batch, TargetPrompts, join, make_batch
from compt_fast.models.engines import fast
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.likeliest import Likeliest
from compt_fast.ops.paths import COMPILED, path
from compt_fast.runs.job import MINI_WEIGHTS

Own = tuple[TargetPrompts, Batch]
SIZES = (1, 9, 4, 17, 2)  # of batches that are joined


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8"])
def trunk(request: pytest.FixtureRequest) -> PackedTrunk:
    dtype = torch.bfloat16 if request.param == "bf16" else torch.float32
    made = PackedTrunk.load(str(MINI_WEIGHTS), dtype=dtype, device="cpu", prompt_position="prepend")
    if request.param == "int8":
        made.quantise()
    return made


def own_batches(trunk: PackedTrunk, longest: int = 40, sizes: Sequence[int] = SIZES) -> list[Own]:
    """A batch of each size, each with prompts of its own, of another length for each."""
    rng, generator = random.Random(3), torch.Generator().manual_seed(4)
    found = []
    for number, size in enumerate(sizes):
        prompts = TargetPrompts.from_stacks([2 * torch.randn(2, number, trunk.d_model, generator=generator)])
        inputs = [[*rng.choices(range(3, 250), k=rng.randint(1, longest)), trunk.end_id] for _ in range(size)]
        found.append((prompts, make_batch(inputs, None, [rng.randrange(2) for _ in range(size)])))
    return found


def candidates_of(trunk: PackedTrunk, rows: int) -> list[list[list[int]]]:
    rng = random.Random(5)
    label = [[*rng.choices(range(3, 250), k=n), trunk.end_id] for n in (1, 2, 1, 3)]
    return [label[: 2 + row % 3] for row in range(rows)]


def logged(trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch, tokens: int) -> tuple[list[list[int]], Tensor]:
    """The greedy answers, none of which ends early, and what the head reads at each of their tokens: (B, tokens, d)."""
    seen: list[Tensor] = []
    find = Likeliest.__call__

    def likeliest(self: Likeliest, states: Tensor) -> Tensor:
        seen.append(states.clone())
        return find(self, states)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Likeliest, "__call__", likeliest)
        patch.setattr(trunk, "end_id", -1)
        answers = trunk.generate(prompts, batch, tokens)
    steps = [torch.stack(seen[at : at + tokens], 1) for at in range(0, len(seen), tokens)]
    return answers, torch.cat(steps)


def check(trunk: PackedTrunk, parts: list[Own], tokens: int = 4) -> None:
    whole = join(parts)
    assert whole[1].joined == tuple(batch.rows for _, batch in parts)
    alone = [trunk.label_scores(*own, candidates_of(trunk, own[1].rows)) for own in parts]
    candidates = [row for _, batch in parts for row in candidates_of(trunk, batch.rows)]
    together = trunk.label_scores(*whole, candidates)
    assert all(map(torch.equal, together, [row for own in alone for row in own]))
    assert trunk.generate(*whole, tokens) == [row for own in parts for row in trunk.generate(*own, tokens)]
    found, wanted = logged(trunk, *whole, tokens), [logged(trunk, *own, tokens) for own in parts]
    assert found[0] == [row for answers, _ in wanted for row in answers]
    assert torch.equal(found[1], torch.cat([states for _, states in wanted]))


def test_each_batch_is_answered_as_alone(trunk: PackedTrunk) -> None:
    check(trunk, own_batches(trunk))


def test_the_decoder_takes_all_rows_at_once_where_that_changes_no_bit(
    trunk: PackedTrunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    take = fast.greedy
    monkeypatch.setattr(fast, "greedy", lambda of, *rest: rows.append(len(of.cu_seqlens_q) - 1) or take(of, *rest))
    trunk.generate(*join(own_batches(trunk)), 4)
    compiled = path("linear", trunk.embedding) == COMPILED
    assert rows == ([sum(SIZES)] if compiled else list(SIZES))


def test_batches_whose_keys_are_absorbed_beside_some_whose_are_projected(trunk: PackedTrunk) -> None:
    long, short = own_batches(trunk, 60, [6]), own_batches(trunk, 1, [5, 3])
    check(trunk, [*short, *long], tokens=20)


def test_pieces_are_those_of_each_batch(trunk: PackedTrunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "ABSORBED_ELEMENTS", 20 * trunk.weights.heads * trunk.d_model)
    check(trunk, own_batches(trunk))


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: False)
    made = PackedTrunk.load(str(MINI_WEIGHTS), dtype=torch.float32, device="cpu", prompt_position="append")
    check(made, own_batches(made))


def test_an_update_reaches_its_own_rows(trunk: PackedTrunk) -> None:
    parts = own_batches(trunk)
    generator = torch.Generator().manual_seed(6)
    updates = [torch.randn(batch.input_tokens, trunk.d_model, generator=generator) for _, batch in parts]
    alone = [
        trunk.label_scores(*own, candidates_of(trunk, own[1].rows), update)
        for own, update in zip(parts, updates, strict=True)
    ]
    candidates = [row for _, batch in parts for row in candidates_of(trunk, batch.rows)]
    together = trunk.label_scores(*join(parts), candidates, torch.cat(updates))
    assert all(map(torch.equal, together, [row for own in alone for row in own]))


def test_one_batch_joined_is_itself(trunk: PackedTrunk) -> None:
    (own,) = own_batches(trunk, sizes=[3])
    assert join([own]) is own and own[1].parts == [slice(0, 3)]


@pytest.mark.gpu
def test_a_gpu_answers_as_the_cpu_does() -> None:
    """Rows of several batches at once, and one call begun before the answers of the one before are read."""
    cpu, gpu = (
        PackedTrunk.load(str(MINI_WEIGHTS), dtype=torch.float32, device=device, prompt_position="prepend")
        for device in ("cpu", "cuda")
    )
    parts = own_batches(cpu)
    prompts, batch = join(parts)
    there = TargetPrompts(prompts.flat.cuda(), prompts.cu_seqlens), batch.to("cuda")
    begun = [gpu.begin_generate(*there, tokens) for tokens in (4, 1, 40)]
    assert [answers() for answers in begun] == [cpu.generate(prompts, batch, tokens) for tokens in (4, 1, 40)]
