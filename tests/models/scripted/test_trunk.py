"""The scripted trunk answers and scores as the trunk that it is made of, on the CPU to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import native
from compt_fast.models.api import open_trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.scripted import trunk as scripted
from compt_fast.models.scripted.attention import selected
from compt_fast.models.scripted.products import How, how_for
from compt_fast.models.scripted.rows import distances
from compt_fast.models.scripted.trunk import ScriptedTask, ScriptedTrunk
from compt_fast.models.t5 import decode, decoder
from compt_fast.models.t5.cross_attention import cross_attention_for
from compt_fast.ops.varlen import cu_seqlens_of
from tests.helpers.made_predictors import MINI
from tests.helpers.tiny_t5 import make_t5

LENGTHS = (7, 0, 3)
FAMILIES = ("t5", "v1.1")

pytestmark = pytest.mark.skipif(not native.load(), reason="needs the compiled operators")


def opened(folder: Path, dtype: torch.dtype = torch.float32, position: str = "prepend") -> PackedTrunk:
    trunk = open_trunk("fast", str(folder), dtype=dtype, prompt_position=position)
    assert isinstance(trunk, PackedTrunk)
    return trunk


def tasks_for(trunk: PackedTrunk, longest: int = 4) -> list[ScriptedTask]:
    """Labels that begin alike, of up to `longest` tokens before their </s>."""
    g = torch.Generator().manual_seed(1)
    labels = [[[5, 9, 9, 8][:longest], [5, 9, 7], [6]], [[4], [7, 8]], [[10 + i] for i in range(6)]]
    most = 1 + max(len(ids) for own in labels for ids in own)
    return [
        ScriptedTask(
            "", [""], 99, torch.randn(n, trunk.d_model, generator=g) * 3, [""], [[*ids, 1] for ids in own], most, [""]
        )
        for n, own in zip(LENGTHS, labels, strict=True)
    ]


def rows_for(tasks: list[ScriptedTask], longest: int = 100) -> tuple[TargetPrompts, Batch]:
    g = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, longest, (24,), generator=g).tolist()
    inputs = [torch.randint(3, 100, (n,), generator=g).tolist() for n in lengths]
    slots = torch.randint(len(tasks), (24,), generator=g).tolist()
    prompts = TargetPrompts(torch.cat([task.prompt for task in tasks]), cu_seqlens_of(list(LENGTHS)))
    return prompts, make_batch(inputs, None, slots)


def made(trunk: PackedTrunk, tasks: list[ScriptedTask]) -> ScriptedTrunk:
    return ScriptedTrunk(trunk.weights, tasks, trunk.start_id, trunk.end_id, trunk.prepend)


def results(model: Any, batch: Batch) -> tuple[list[list[int]], torch.Tensor]:
    with torch.no_grad():
        answers, ends, scores, score_ends = model(batch.input_ids, batch.input_cu_seqlens, batch.slots)
    assert score_ends[-1] == len(scores)
    return [answer.tolist() for answer in answers.split(ends.diff().tolist())], scores


def expected(
    trunk: PackedTrunk, tasks: list[ScriptedTask], prompts: TargetPrompts, batch: Batch
) -> tuple[list[list[int]], torch.Tensor]:
    longest = max(len(ids) for task in tasks for ids in task.label_ids)
    scores = trunk.label_scores(prompts, batch, [tasks[t].label_ids for t in batch.slots.tolist()])
    return trunk.generate(prompts, batch, longest), torch.cat(scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", ["prepend", "append"])
def test_the_embedded_trunk_in_torchscript(dtype: torch.dtype, position: str) -> None:
    trunk = opened(MINI, dtype, position)
    tasks = tasks_for(trunk)
    prompts, batch = rows_for(tasks)
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        model = torch.jit.script(made(trunk, tasks))
    want = expected(trunk, tasks, prompts, batch)
    assert len({len(answer) for answer in want[0]}) > 1  # rows end at different times
    for _ in range(3):  # TorchScript compiles anew after it has seen a call
        answers, scores = results(model, batch)
        assert answers == want[0]
        assert torch.equal(scores, want[1])
    alone = model.answer(batch.input_ids, batch.input_cu_seqlens, batch.slots)[0]
    assert alone.tolist() == [token for answer in want[0] for token in answer]
    assert torch.equal(model.score(batch.input_ids, batch.input_cu_seqlens, batch.slots)[0], scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoders_states_have_the_bits_of_the_engines(dtype: torch.dtype) -> None:
    """Step by step, beyond what a cache has room for at first, and behind a row that has ended."""
    trunk = opened(MINI, dtype)
    weights, steps = trunk.weights, decode.ROOM + 4
    model = made(trunk, tasks_for(trunk))
    g = torch.Generator().manual_seed(3)
    states, cu = torch.randn(60, trunk.d_model, generator=g).to(dtype), torch.tensor([0, 9, 30, 60])
    cross = cross_attention_for(states, torch.arange(4), cu, weights, steps)
    how = how_for(weights.embedding)
    of = model._cross(states, torch.arange(4), cu, steps, how)
    cache: list[torch.Tensor] = []
    own = decode._RoomyCache(weights, steps)
    bias = distances(model.decoder_bias, torch.arange(1 - steps, steps))
    for step in range(steps):
        ids = torch.randint(3, 100, (len(cross.cu_seqlens_q) - 1,), generator=g)
        own.step(len(ids), step + 1)
        found = model._decode(ids, bias, None, step, cache, of, how)
        assert torch.equal(found, decoder.decode(ids, own, cross))
        if step == 5:
            rows = torch.tensor([0, 2])
            cross, of = cross.select(rows), selected(of, rows, weights.heads, how)
            own.select(rows)
            cache = [kv[rows] for kv in cache]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("host", [True, False], ids=["operators", "formulas"])
def test_both_kinds_of_feed_forward_with_and_without_operators(
    family: str, host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not host:  # what computes on a GPU
        monkeypatch.setattr(scripted, "how_for", lambda x: How(False, False))
    trunk = opened(make_t5(tmp_path, family))
    tasks = tasks_for(trunk)
    prompts, batch = rows_for(tasks)
    want = expected(trunk, tasks, prompts, batch)
    answers, scores = results(made(trunk, tasks), batch)
    assert answers == want[0]
    torch.testing.assert_close(scores, want[1], rtol=0 if host else 1e-4, atol=0 if host else 1e-4)


@pytest.mark.parametrize("host", [True, False], ids=["operators", "formulas"])
def test_keys_and_values_are_projected_where_that_takes_less(
    host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not host:
        monkeypatch.setattr(scripted, "how_for", lambda x: How(False, False))
    trunk = opened(make_t5(tmp_path))
    tasks = [
        ScriptedTask(
            "", [""], 99, torch.zeros(n, trunk.d_model), [""], [[*range(3, 40), 1], [*range(4, 60), 1]], 57, [""]
        )
        for n in LENGTHS
    ]
    prompts, batch = rows_for(tasks, longest=6)
    model = made(trunk, tasks)
    states = torch.zeros(3, trunk.d_model)
    assert not model._cross(states, torch.tensor([0, 90]), torch.tensor([0, 3]), 1, How(host, False)).absorbed
    want = expected(trunk, tasks, prompts, batch)
    answers, scores = results(model, batch)
    assert answers == want[0]
    torch.testing.assert_close(scores, want[1], rtol=1e-5, atol=1e-4)


def test_scores_of_some_rows_at_a_time_and_heads_of_some_tokens() -> None:
    trunk = opened(MINI)
    tasks = tasks_for(trunk)
    _, batch = rows_for(tasks)
    whole, parts = made(trunk, tasks), made(trunk, tasks)
    parts.absorbed_elements, parts.logits_elements = 9 * trunk.weights.heads * trunk.d_model, 3 * len(parts.head)
    assert torch.equal(results(parts, batch)[1], results(whole, batch)[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_ids": torch.tensor([3, 1, 5000])}, "token_ids are numbers from 0"),
        ({"token_ids": torch.tensor([3, -1, 1])}, "token_ids are numbers from 0"),
        ({"token_ids": torch.tensor([3.0, 4.0, 1.0])}, "token_ids must be a one-dimensional int64"),
        ({"cu_seqlens": torch.tensor([0, 2, 4])}, "cu_seqlens must ascend from 0 to 3"),
        ({"cu_seqlens": torch.tensor([0, 0, 3])}, "no row is empty"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "2 tasks and 2 cumulative lengths"),
        ({"tasks": torch.tensor([0, 3])}, "tasks are numbers from 0 to 2"),
        ({"tasks": torch.tensor([], dtype=torch.int64), "cu_seqlens": torch.tensor([0])}, "0 tasks"),
    ],
)
def test_what_is_no_row_is_refused(change: dict[str, torch.Tensor], said: str) -> None:
    trunk = opened(MINI)
    model = made(trunk, tasks_for(trunk))
    rows = {"token_ids": torch.tensor([3, 4, 1]), "cu_seqlens": torch.tensor([0, 1, 3]), "tasks": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=said):
        model(**rows | change)
