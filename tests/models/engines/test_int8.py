"""The fast engine in int8."""

from __future__ import annotations

import pytest
import torch

from compt_fast.models.api import Trunk, open_trunk
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.engines import fast
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.ops import paths
from compt_fast.runs.job import MINI_WEIGHTS
from compt_fast.utils.errors import InputError
from tests.helpers.trunk_rows import LABELS, ids, some_batch, some_prompts


def mini(engine: str = "fast", dtype: torch.dtype = torch.float32) -> Trunk:
    return open_trunk(engine, str(MINI_WEIGHTS), dtype=dtype)


def quantised(dtype: torch.dtype = torch.float32) -> Trunk:
    trunk = mini(dtype=dtype)
    trunk.quantise()
    return trunk


@pytest.fixture(scope="module")
def whole() -> Trunk:
    return quantised()


def prompts_of(trunk: Trunk) -> TargetPrompts:
    return TargetPrompts.from_stacks([0.3 * prompt.detach() for prompt in some_prompts(trunk)])


def scores(trunk: Trunk, batch: Batch) -> torch.Tensor:
    candidates = [[[*ids(trunk, label)] for label in LABELS]] * batch.rows
    return torch.stack(trunk.label_scores(prompts_of(trunk), batch, candidates))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_known_by_its_checkpoint_until_something_changes(dtype: torch.dtype) -> None:
    trunk, floats = quantised(dtype), mini(dtype=dtype)
    assert trunk.fingerprint() == floats.fingerprint() == mini("reference", dtype).fingerprint()
    assert isinstance(trunk, PackedTrunk)
    trunk.weights.encoder[0].attention.o.weight.view(torch.uint8).flatten()[3] += 1
    assert trunk.fingerprint() != floats.fingerprint()


@pytest.mark.parametrize("bf16", [None, "avx512_bf16"])
def test_what_lies_between_the_products_is_in_what_is_quick_here(
    bf16: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "cpu", lambda: {"bf16": bf16})
    made = quantised()
    assert made.dtype == (torch.bfloat16 if bf16 else torch.float32)
    exact = scores(mini(), some_batch(made))
    assert (scores(made, some_batch(made)) - exact).norm() < (0.05 if bf16 else 0.02) * exact.norm()


def test_a_row_is_answered_alike_in_any_batch_and_by_any_threads(whole: Trunk) -> None:
    """Its states to the last bit; behind them a decoder's tokens attend in groups, whose sums are rounded in turn."""
    assert isinstance(whole, PackedTrunk)
    prompts = prompts_of(whole)
    batches = [some_batch(whole, rows=[row]) for row in range(6)]
    alone = torch.cat([scores(whole, batch) for batch in batches])
    states = torch.cat([whole._encode(prompts, batch, None)[0] for batch in batches])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.testing.assert_close(scores(whole, some_batch(whole)), alone, rtol=0.01, atol=0.05)
            if torch.ops.compt_fast.has_products(torch.float32):  # else torch multiplies what stays floats
                assert torch.equal(whole._encode(prompts, some_batch(whole), None)[0], states)
    finally:
        torch.set_num_threads(before)


def test_torch_s_products_give_the_same(whole: Trunk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(paths.FAMILIES, "linear_int8", paths.Family())
    batch, plain = some_batch(whole), quantised()
    torch.testing.assert_close(scores(plain, batch), scores(whole, batch), rtol=0.01, atol=0.05)
    prompts = prompts_of(whole)
    assert plain.generate(prompts, batch, 4) == whole.generate(prompts, batch, 4)


def test_losses_without_a_gradient_alone(whole: Trunk) -> None:
    batch, prompts = some_batch(whole), prompts_of(whole)
    exact = mini().row_losses(prompts, batch)
    torch.testing.assert_close(whole.row_losses(prompts, batch), exact, rtol=0.05, atol=0.1)
    leaves = TargetPrompts.from_stacks(some_prompts(whole))
    with pytest.raises(InputError, match="a trunk in int8 gives no gradient; train in fp32 or bf16"):
        whole.row_losses(leaves, batch)
    with torch.no_grad():
        assert whole.row_losses(leaves, batch).isfinite().all()


def test_other_engines_and_devices_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="of a T5 --engine fast has int8"):
        mini("reference").quantise()
    trunk = mini()
    monkeypatch.setattr(PackedTrunk, "device", torch.device("cuda"))
    with pytest.raises(InputError, match="--dtype int8 is for the CPU, not for cuda"):
        trunk.quantise()


def test_matrices_take_a_quarter_of_the_memory() -> None:
    def held(trunk: Trunk) -> int:
        assert isinstance(trunk, PackedTrunk)
        own = [layer.feed_forward for layer in trunk.weights.encoder]
        return sum(t.numel() * t.element_size() for part in own for m in (part.wi, part.wo) for t in m.tensors)

    assert held(quantised()) < 0.27 * held(mini())
