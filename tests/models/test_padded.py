"""Models of families beside T5, with prompts, in padded batches, against transformers called on one row at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models import padded
from compt_fast.models.api import open_trunk
from compt_fast.models.batch import TargetPrompts, make_batch
from compt_fast.models.engines.causal import CausalTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.padded import PaddedTrunk
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_trunks import CAUSAL, ENCODER_DECODERS, make_trunk
from tests.helpers.trunk_rows import LABELS, SLOTS, TEXTS, gradients, ids, some_batch, some_prompts

FAMILIES = (*ENCODER_DECODERS, *CAUSAL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trunks")
    return {name: make_trunk(root / name, name, seed=seed) for seed, name in enumerate(FAMILIES)}


@pytest.fixture(scope="module", params=FAMILIES)
def trunk(request: pytest.FixtureRequest, folders: dict[str, Path]) -> PaddedTrunk:
    opened = open_trunk("auto", str(folders[request.param]))
    assert isinstance(opened, CausalTrunk if request.param in CAUSAL else ReferenceTrunk)
    return opened


def start_of(trunk: PaddedTrunk) -> list[int]:
    """What the decoder of each family reads first, as its configuration here says."""
    return {"bart": [1, 2], "umt5": [0], "t5gemma": [2]}[trunk.family]


def embedded(trunk: PaddedTrunk, tokens: list[int]) -> Tensor:
    return trunk.model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.int64))


def row_logits(trunk: PaddedTrunk, prompt: Tensor, row: list[int], written: list[int]) -> Tensor:
    """The logits (n + 1, V) behind one row and each token written, put together as plainly as can be."""
    texts = [prompt, embedded(trunk, row)]
    if trunk.prompt_position == "append":
        texts.reverse()
    if trunk.continues:
        whole = torch.cat([*texts, embedded(trunk, written)])[None]
        return trunk.model(inputs_embeds=whole).logits[0, len(prompt) + len(row) - 1 :]
    start = start_of(trunk)
    decoder_ids = torch.tensor([start + written])
    logits = trunk.model(inputs_embeds=torch.cat(texts)[None], decoder_input_ids=decoder_ids).logits
    return logits[0, len(start) - 1 :]


def row_losses(trunk: PaddedTrunk, prompts: list[Tensor]) -> Tensor:
    losses = []
    for text, label, slot in zip(TEXTS, LABELS, SLOTS, strict=True):
        target = ids(trunk, label)
        logits = row_logits(trunk, prompts[slot], ids(trunk, text), target[:-1])
        losses.append(F.cross_entropy(logits, torch.tensor(target), reduction="sum"))
    return torch.stack(losses)


def check_losses_and_gradients(trunk: PaddedTrunk) -> None:
    prompts = some_prompts(trunk)
    losses = trunk.row_losses(TargetPrompts.from_stacks(prompts), some_batch(trunk))
    expected = row_losses(trunk, prompts)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    for grad, wanted in zip(gradients(losses, prompts), gradients(expected, prompts), strict=True):
        assert wanted.abs().max() > 1e-3
        assert (grad - wanted).norm() <= 1e-4 * wanted.norm()


def test_losses_and_gradients_are_those_of_single_rows(trunk: PaddedTrunk) -> None:
    check_losses_and_gradients(trunk)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_appended_prompts_stand_behind_the_text(family: str, folders: dict[str, Path]) -> None:
    check_losses_and_gradients(open_trunk("auto", str(folders[family]), prompt_position="append"))


def test_without_a_prompt_it_reads_what_the_model_makes_of_token_ids(trunk: PaddedTrunk) -> None:
    """Scaled embeddings, learned positions and their offsets are the model's own."""
    bare = TargetPrompts.from_stacks([torch.zeros(0, trunk.d_model)] * 4)
    found = trunk.row_losses(bare, some_batch(trunk))
    for row, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True)):
        inputs, target = ids(trunk, text), ids(trunk, label)
        if trunk.continues:
            logits = trunk.model(input_ids=torch.tensor([inputs + target[:-1]])).logits[0, len(inputs) - 1 :]
        else:
            start = start_of(trunk)
            decoder_ids = torch.tensor([start + target[:-1]])
            logits = trunk.model(input_ids=torch.tensor([inputs]), decoder_input_ids=decoder_ids).logits[0]
            logits = logits[len(start) - 1 :]
        wanted = F.cross_entropy(logits, torch.tensor(target), reduction="sum")
        torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-5)


def test_greedy_answers_are_those_of_single_rows(trunk: PaddedTrunk, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = some_prompts(trunk)
    target, batch = TargetPrompts.from_stacks(prompts), some_batch(trunk, labels=False)
    free = trunk.generate(target, batch, 5)
    for text, slot, answer in zip(TEXTS, SLOTS, free, strict=True):
        whole = answer + [trunk.end_id] * (len(answer) < 5)
        logits = row_logits(trunk, prompts[slot], ids(trunk, text), whole[:-1])
        assert logits.argmax(-1).tolist() == whole
    # Any token may play the part of the end: one that ends the rows after different lengths.
    end = max(
        {token for answer in free for token in answer},
        key=lambda token: len({answer.index(token) for answer in free if token in answer}),
    )
    monkeypatch.setattr(trunk, "end_id", end)
    ended = [answer[: answer.index(end)] if end in answer else answer for answer in free]
    assert trunk.generate(target, batch, 5) == ended and ended != free
    assert trunk.generate(target, batch, 0) == [[]] * len(TEXTS)


def test_label_scores_are_negative_losses(trunk: PaddedTrunk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the candidates are cut into chunks, in the middle of a row or not."""
    prompts = some_prompts(trunk)
    batch = some_batch(trunk, labels=False)
    words = [ids(trunk, label) for label in LABELS]
    candidates = [words, words[:1], [[1]], words[2:4], [[9, 1], [9, 4, 1], [1]], words]
    for chunk in (padded.CHUNK_ELEMENTS, 20_000):
        monkeypatch.setattr(padded, "CHUNK_ELEMENTS", chunk)
        scores = trunk.label_scores(TargetPrompts.from_stacks(prompts), batch, candidates)
        for text, slot, own, found in zip(TEXTS, SLOTS, candidates, scores, strict=True):
            wanted = [
                -F.cross_entropy(
                    row_logits(trunk, prompts[slot], ids(trunk, text), label[:-1]).detach(),
                    torch.tensor(label),
                    reduction="sum",
                )
                for label in own
            ]
            torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-4)


def test_an_update_is_added_to_what_the_model_reads(folders: dict[str, Path]) -> None:
    """BART scales what it looks up: the update is not scaled."""
    trunk = open_trunk("auto", str(folders["bart"]))
    prompts, batch = TargetPrompts.from_stacks([torch.zeros(0, 32)]), make_batch([[5, 6, 1]], [[7, 1]], [0])
    update = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = trunk.row_losses(prompts, batch, update)
    inputs = (embedded(trunk, [5, 6, 1]) + update)[None]
    logits = trunk.model(inputs_embeds=inputs, decoder_input_ids=torch.tensor([[1, 2, 7]])).logits[0, 1:]
    wanted = F.cross_entropy(logits, torch.tensor([7, 1]), reduction="sum")[None]
    torch.testing.assert_close(loss, wanted)
    found, expected = (torch.autograd.grad(each.sum(), update)[0] for each in (loss, wanted))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_no_weight_takes_a_gradient_and_the_fingerprint_knows_all(folders: dict[str, Path]) -> None:
    trunk = open_trunk("auto", str(folders["bart"]))
    before = trunk.fingerprint()
    prompts = some_prompts(trunk)
    trunk.row_losses(TargetPrompts.from_stacks(prompts), some_batch(trunk)).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in trunk.model.parameters())
    assert not trunk.model.training and trunk.fingerprint() == before
    trunk.model.final_logits_bias[0, 3] += 1  # no parameter, and in the checkpoint
    assert trunk.fingerprint() != before


@pytest.mark.parametrize("family", ["bart", "gpt2", "gemma"])
def test_bf16_stays_near_fp32(family: str, folders: dict[str, Path]) -> None:
    exact, rounded = (open_trunk("auto", str(folders[family]), dtype=d) for d in (torch.float32, torch.bfloat16))
    prompts, batch = TargetPrompts.from_stacks(some_prompts(exact)), some_batch(exact)
    wanted, found = exact.row_losses(prompts, batch), rounded.row_losses(prompts, batch)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() <= 0.05 * wanted.norm()


def test_an_embedding_that_the_model_does_not_read_is_refused(folders: dict[str, Path], monkeypatch) -> None:
    """As of a model that looks at the token ids beside their embeddings, or at its padding."""
    load = {"dtype": torch.float32, "device": "cpu", "prompt_position": "prepend"}
    name = str(folders["gpt2"])
    scaled = CausalTrunk._embeds
    with monkeypatch.context() as patched:
        patched.setattr(CausalTrunk, "_embeds", lambda self: Doubled(scaled(self)))
        with pytest.raises(
            InputError, match=r"GPT2LMHeadModel does not read embeddings \(inputs_embeds\) as their tokens"
        ):
            CausalTrunk.load(name, **load)
    with monkeypatch.context() as patched:
        patched.setattr(CausalTrunk, "_takes", frozenset({"logits_to_keep"}))  # and so no positions
        with pytest.raises(InputError, match="GPT2LMHeadModel answers a row otherwise beside a longer one"):
            CausalTrunk.load(name, **load)
    with monkeypatch.context() as patched:
        patched.setattr(padded, "ARGUMENTS", ("inputs_embeds", "memory"))
        with pytest.raises(InputError, match="GPT2LMHeadModel takes no memory, and a trunk reads soft prompts by it"):
            CausalTrunk.load(name, **load)


class Doubled(torch.nn.Module):
    def __init__(self, embeds: torch.nn.Embedding) -> None:
        super().__init__()
        self.weight = embeds.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return 2 * self.weight[tokens]
