"""Greedy answers of a device that the host does not wait for: those of rows that leave when they have ended."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from compt_fast.kernels import launching
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5 import decode as decoding
from tests.helpers.recording import OneDevice, Unlawful, as_on_a_gpu, lawful, on_meta, quick_attention
from tests.helpers.tiny_t5 import make_t5

Answers = list[list[int]]


@pytest.fixture(scope="module", params=["t5", "v1.1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("trunk"), request.param)


@pytest.fixture(scope="module")
def trunk(folder: Path) -> PackedTrunk:
    return PackedTrunk.load(str(folder), dtype=torch.float32, device="cpu", prompt_position="prepend")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, but for the kernels that take long in the interpreter."""
    as_on_a_gpu(monkeypatch)
    quick_attention(monkeypatch)


def some_rows(trunk: PackedTrunk, count: int = 9) -> tuple[TargetPrompts, Batch]:
    rng, generator = random.Random(1), torch.Generator().manual_seed(2)
    prompts = TargetPrompts.from_stacks([3 * torch.randn(2, 3, trunk.d_model, generator=generator)])
    inputs = [[*rng.choices(range(3, 90), k=rng.randint(20, 50)), 1] for _ in range(count)]
    return prompts, make_batch(inputs, None, [rng.randrange(2) for _ in inputs])


def begun(trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch, most: int) -> Callable[[], Answers]:
    """As `PackedTrunk.begin_generate` does on a GPU."""
    states, cu_seqlens, _ = trunk._encode(prompts, batch, None)
    return trunk._begin_greedy(states, cu_seqlens, most)


def an_end(trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch) -> int:
    """A token with which some answers end early and some do not."""
    written = trunk.generate(prompts, batch, 30)
    ends = Counter(token for answer in written for token in set(answer))
    return next(token for token, count in ends.most_common() if 0 < count < batch.rows)


@pytest.mark.parametrize("most", [0, 1, 5, 30])
def test_answers_are_those_of_rows_that_leave_as_they_end(
    most: int, trunk: PackedTrunk, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, batch = some_rows(trunk)
    monkeypatch.setattr(trunk, "end_id", an_end(trunk, prompts, batch))
    with torch.no_grad():
        wanted, found = trunk.generate(prompts, batch, most), begun(trunk, prompts, batch, most)()
    assert found == wanted
    if most > 1:
        assert len({len(answer) for answer in found}) > 1


def test_nobody_waits_for_a_token(trunk: PackedTrunk, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the encoder's states and the answers nothing is read from the device, nor anything of the host's."""
    write, tokens_of = decoding._write, []

    def watched(tokens: Tensor, *rest: Any) -> None:
        tokens_of.append(len(tokens) - 1)
        with lawful():
            write(tokens, *rest)

    monkeypatch.setattr(decoding, "_write", watched)
    prompts, batch = some_rows(trunk)
    monkeypatch.setattr(trunk, "end_id", -1)
    with torch.no_grad():
        begun(trunk, prompts, batch, 7)
        assert tokens_of == [7], "a label's tokens, all at once"
        monkeypatch.setattr(decoding, "LOOK", 3)
        begun(trunk, prompts, batch, 7)
        assert tokens_of[1:] == [3, 3, 1]
        with pytest.raises(Unlawful), lawful():
            trunk.generate(prompts, batch, 4)


def test_the_host_stops_where_all_have_ended(trunk: PackedTrunk, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = decoding._write, []
    monkeypatch.setattr(decoding, "_write", lambda *of: calls.append(1) or write(*of))
    prompts, batch = some_rows(trunk, 1)
    with torch.no_grad():
        monkeypatch.setattr(trunk, "end_id", trunk.generate(prompts, batch, 3)[0][2])
        assert begun(trunk, prompts, batch, 200)() == trunk.generate(prompts, batch, 200)
    assert len(calls) == 1


class Counted(TorchDispatchMode):
    """Counts operators that start something on a device: not those that make a view or memory."""

    def __init__(self) -> None:
        super().__init__()
        self.started: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = {x.untyped_storage()._cdata for x in args if isinstance(x, Tensor)}
        view = isinstance(found, Tensor) and found.untyped_storage()._cdata in given and not name.endswith("_")
        if not view and not name.startswith(("empty", "new_empty", "unbind", "split", "detach")):
            self.started[name] += 1
        return found


def test_a_token_takes_few_launches(trunk: PackedTrunk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on a device without data, on which nothing of the host's is touched from the first token to the last."""
    as_on_a_gpu(monkeypatch)
    away = on_meta(trunk, folder)
    write, found = decoding._write, []

    def counted(tokens: Tensor, *rest: Any) -> None:
        with launching.recorded() as launches, Counted() as operators, OneDevice():
            write(tokens, *rest)
        found.append((len(launches), operators.started))

    monkeypatch.setattr(decoding, "_write", counted)
    prompts, batch = some_rows(trunk)
    on_device = TargetPrompts(prompts.flat.to("meta"), prompts.cu_seqlens)
    with torch.no_grad(), launching.recorded():
        away.begin_generate(on_device, batch.to("meta"), 1)
        away.begin_generate(on_device, batch.to("meta"), 6)
    (one, of_one), (six, of_six) = found
    layers = len(trunk.weights.decoder)
    assert six == 6 * one and one == 7 * layers + 1, "norms, attention, what cross-attention takes; the last norm"
    assert of_six.total() == 6 * of_one.total(), of_six - of_one
    assert of_one.total() <= 16 * layers + 4, of_one
