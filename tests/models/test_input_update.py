"""Updates of the token embeddings of a row's text: both engines, and transformers given the embeddings themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.models.api import Trunk, open_trunk
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.engines import fast
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.t5 import losses as packed_losses
from tests.helpers.tiny_t5 import make_t5
from tests.helpers.trunk_rows import LABELS, SLOTS, TEXTS, gradients, ids, some_batch, some_prompts

FAST, REFERENCE = "fast", "reference"


@pytest.fixture(scope="module", params=[("t5", "prepend"), ("v1.1", "append")], ids=["t5", "v1.1 appended"])
def trunks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trunk]:
    family, position = request.param
    folder = make_t5(tmp_path_factory.mktemp("trunk"), family)
    return {name: open_trunk(name, str(folder), prompt_position=position) for name in (FAST, REFERENCE)}


class LowRank:
    """A method that updates a row's text as DePT and ADePT do, with a low rank, by the token's place in its row."""

    def __init__(self, trunk: Trunk, rank: int = 3, most: int = 40) -> None:
        generator = torch.Generator().manual_seed(3)
        self.a = torch.randn(most, rank, generator=generator).to(trunk.device).requires_grad_()
        self.b = torch.randn(rank, trunk.d_model, generator=generator).to(trunk.device).requires_grad_()

    @property
    def params(self) -> list[Tensor]:
        return [self.a, self.b]

    def __call__(self, batch: Batch) -> Tensor:
        """The update (N, d) of a batch."""
        places = torch.cat([torch.arange(int(n)) for n in batch.input_lengths]).to(self.a.device)
        return (self.a @ self.b)[places]


def direct_losses(trunk: ReferenceTrunk, prompts: list[Tensor], update: Tensor) -> Tensor:
    """transformers on one row at a time, its input embeddings put together as plainly as can be."""
    lengths = [len(ids(trunk, text)) for text in TEXTS]
    losses = []
    for text, label, slot, own in zip(TEXTS, LABELS, SLOTS, update.split(lengths), strict=True):
        embedded = trunk.embedding[torch.tensor(ids(trunk, text))] + own
        parts = [prompts[slot], embedded]
        inputs = torch.cat(parts if trunk.prompt_position == "prepend" else parts[::-1])[None]
        target = torch.tensor([ids(trunk, label)])
        losses.append(trunk.model(inputs_embeds=inputs, labels=target).loss * target.shape[1])
    return torch.stack(losses)


def close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32 and other.abs().max() > 0
        assert (one - other).norm() <= 1e-4 * other.norm()


def test_losses_and_gradients_are_those_of_updated_embeddings(trunks: dict[str, Trunk]) -> None:
    reference = trunks[REFERENCE]
    assert isinstance(reference, ReferenceTrunk)
    method, prompts, batch = LowRank(reference), some_prompts(reference), some_batch(reference)
    wanted = direct_losses(reference, prompts, method(batch))
    wanted_grads = gradients(wanted, [*prompts, *method.params])
    for trunk in trunks.values():
        losses = trunk.row_losses(TargetPrompts.from_stacks(prompts), batch, method(batch))
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
        close(gradients(losses, [*prompts, *method.params]), wanted_grads)


def test_without_the_extension_and_in_chunks_all_is_the_same(
    trunks: dict[str, Trunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "load", lambda: False)
    monkeypatch.setattr(fast, "CACHED_TOKENS", 20)
    method, prompts, batch = LowRank(trunks[FAST]), some_prompts(trunks[FAST]), some_batch(trunks[FAST])
    losses, wanted = (
        trunk.row_losses(TargetPrompts.from_stacks(prompts), batch, method(batch)) for trunk in trunks.values()
    )
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    close(*(gradients(each, [*prompts, *method.params]) for each in (losses, wanted)))


def test_an_update_alone_is_trained_beside_frozen_prompts_and_without_any(trunks: dict[str, Trunk]) -> None:
    method, batch = LowRank(trunks[FAST]), some_batch(trunks[FAST])
    frozen = [prompt.detach() for prompt in some_prompts(trunks[FAST])]
    for prompts in (frozen, [prompt[:0] for prompt in frozen]):
        losses = [
            trunk.row_losses(TargetPrompts.from_stacks(prompts), batch, method(batch)) for trunk in trunks.values()
        ]
        close(*(gradients(each, method.params) for each in losses))


def test_rows_in_any_order_keep_their_updates(trunks: dict[str, Trunk]) -> None:
    """The order that a GPU's packed path takes them in."""
    trunk = trunks[FAST]
    assert isinstance(trunk, PackedTrunk)
    method, prompts, batch = LowRank(trunk), some_prompts(trunk), some_batch(trunk)
    target = TargetPrompts.from_stacks(prompts)
    found, wanted = (how(target, batch, method(batch)) for how in (trunk._sorted_losses, trunk._row_losses))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    close(*(gradients(each, method.params) for each in (found, wanted)))


@torch.no_grad()
def test_answers_and_scores_are_those_of_updated_embeddings(trunks: dict[str, Trunk]) -> None:
    method, prompts = LowRank(trunks[FAST]), some_prompts(trunks[FAST])
    target, batch = TargetPrompts.from_stacks(prompts), some_batch(trunks[FAST], labels=False)
    update = method(batch)
    answers = [trunk.generate(target, batch, 5, update) for trunk in trunks.values()]
    assert answers[0] == answers[1] != trunks[FAST].generate(target, batch, 5)
    words = [ids(trunks[FAST], label) for label in LABELS]
    candidates = [words] * len(TEXTS)
    scores = zip(*(trunk.label_scores(target, batch, candidates, update) for trunk in trunks.values()), strict=True)
    for found, wanted in scores:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_an_update_of_zeros_changes_no_bit(trunks: dict[str, Trunk]) -> None:
    prompts, batch = some_prompts(trunks[FAST]), some_batch(trunks[FAST])
    zeros = torch.zeros(batch.input_tokens, trunks[FAST].d_model)
    for trunk in trunks.values():
        target = TargetPrompts.from_stacks(prompts)
        losses, wanted = trunk.row_losses(target, batch, zeros), trunk.row_losses(target, batch)
        assert torch.equal(losses, wanted)
        assert all(map(torch.equal, gradients(losses, prompts), gradients(wanted, prompts)))


def test_the_backward_reaches_the_text_only_for_an_update_that_is_trained(
    trunks: dict[str, Trunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = trunks[FAST]
    prompts, batch = some_prompts(trunk), some_batch(trunk)
    reached = []

    def noted(*given: Tensor) -> Tensor:
        grad = backward(*given)
        reached.append(len(grad))
        return grad

    backward = packed_losses.encode_backward
    monkeypatch.setattr(packed_losses, "encode_backward", noted)
    places = int(torch.tensor([len(prompts[slot]) for slot in SLOTS]).sum())
    update = torch.ones(batch.input_tokens, trunk.d_model)
    trained = update.clone().requires_grad_()
    for given, wanted in ((None, places), (update, places), (trained, places + batch.input_tokens)):
        trunk.row_losses(TargetPrompts.from_stacks(prompts), batch, given).sum().backward()
        assert reached.pop() == wanted and not reached


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_bf16_the_sums_are_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = make_t5(tmp_path / "trunk")
    trunks = [open_trunk(name, str(folder), dtype=torch.bfloat16) for name in (FAST, REFERENCE)]
    prompts, batch = some_prompts(trunks[0]), some_batch(trunks[0])
    update = torch.randn(batch.input_tokens, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    losses = []
    for trunk in trunks:
        leaf = update.clone().requires_grad_()
        own = trunk.row_losses(TargetPrompts.from_stacks(prompts), batch, leaf)
        losses.append(own.detach())
        own.sum().backward()
        assert own.dtype == torch.float32 and leaf.grad is not None and leaf.grad.dtype == dtype
    torch.testing.assert_close(losses[0], losses[1], rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("engine", [FAST, REFERENCE])
def test_an_update_of_another_shape_is_refused(trunks: dict[str, Trunk], engine: str) -> None:
    trunk = trunks[engine]
    target, batch = TargetPrompts.from_stacks(some_prompts(trunk)), some_batch(trunk)
    for update in (torch.zeros(3, 32), torch.zeros(batch.input_tokens, 8), torch.zeros(batch.input_tokens, 32).long()):
        with pytest.raises(ValueError, match=r"float tensor \(\d+, 32\), a row for each of their tokens"):
            trunk.row_losses(target, batch, update)
        with pytest.raises(ValueError, match="an update of the inputs"):
            trunk.generate(target, batch, 2, update)
