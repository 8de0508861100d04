"""The reference engine against transformers called on one row at a time, without any padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compt_fast.models import padded
from compt_fast.models.batch import TargetPrompts, make_batch
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_t5 import FAMILIES, make_t5
from tests.helpers.trunk_rows import LABELS, SLOTS, TEXTS, gradients, ids, some_batch, some_prompts


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trunks")
    return {name: make_t5(root / name, name, seed=seed) for seed, name in enumerate(FAMILIES)}


def load(folder: Path, dtype=torch.float32, device="cpu", position="prepend") -> ReferenceTrunk:
    return ReferenceTrunk.load(str(folder), dtype=dtype, device=device, prompt_position=position)


@pytest.fixture(scope="module", params=FAMILIES)
def trunk(request: pytest.FixtureRequest, folders: dict[str, Path]) -> ReferenceTrunk:
    return load(folders[request.param])


@pytest.fixture(scope="module")
def t5(folders: dict[str, Path]) -> ReferenceTrunk:
    return load(folders["t5"])


def direct_input(trunk: ReferenceTrunk, prompt: Tensor, text: str) -> Tensor:
    """One row's encoder input (1, L, d), put together as plainly as can be."""
    embedded = trunk.model.get_input_embeddings()(torch.tensor(ids(trunk, text)).to(trunk.device))
    parts = [prompt.to(trunk.dtype), embedded]
    return torch.cat(parts if trunk.prompt_position == "prepend" else parts[::-1])[None]


def direct_losses(trunk: ReferenceTrunk, prompts: list[Tensor]) -> Tensor:
    losses = []
    for text, label, slot in zip(TEXTS, LABELS, SLOTS, strict=True):
        target = torch.tensor([ids(trunk, label)], device=trunk.device)
        inputs = direct_input(trunk, prompts[slot], text)
        mean = trunk.model(inputs_embeds=inputs, labels=target).loss
        losses.append(mean.float() * target.shape[1])
    return torch.stack(losses)


def check_losses_and_gradients(trunk: ReferenceTrunk) -> None:
    prompts = some_prompts(trunk)
    losses = trunk.row_losses(TargetPrompts.from_stacks(prompts), some_batch(trunk))
    expected = direct_losses(trunk, prompts)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    found = gradients(losses, prompts)
    for grad, wanted in zip(found, gradients(expected, prompts), strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_are_those_of_single_rows(trunk: ReferenceTrunk) -> None:
    check_losses_and_gradients(trunk)


def test_appended_prompts_stand_behind_the_text(folders: dict[str, Path]) -> None:
    check_losses_and_gradients(load(folders["t5"], position="append"))


def test_the_position_of_the_prompt_matters(folders: dict[str, Path], t5: ReferenceTrunk) -> None:
    prompts = TargetPrompts.from_stacks(some_prompts(t5))
    batch = some_batch(t5)
    behind = load(folders["t5"], position="append").row_losses(prompts, batch)
    assert not torch.allclose(behind, t5.row_losses(prompts, batch), rtol=1e-3)


def test_a_slot_without_prompt_tokens_reads_the_text_alone(t5: ReferenceTrunk) -> None:
    prompts = TargetPrompts.from_stacks([torch.zeros(0, 32), torch.ones(2, 32)])
    batch = make_batch([ids(t5, text) for text in TEXTS[:2]], [[5, 1], [6, 1]], [0, 1])
    plain = t5.model(input_ids=torch.tensor([ids(t5, TEXTS[0])]), labels=torch.tensor([[5, 1]])).loss
    torch.testing.assert_close(t5.row_losses(prompts, batch)[0], plain * 2)
    bare = TargetPrompts.from_stacks([torch.zeros(0, 32)] * 2)
    torch.testing.assert_close(t5.row_losses(bare, batch)[0], plain * 2)


def test_neither_neighbours_nor_order_change_a_row(trunk: ReferenceTrunk) -> None:
    prompts = TargetPrompts.from_stacks([prompt.detach() for prompt in some_prompts(trunk)])
    together = trunk.row_losses(prompts, some_batch(trunk))
    order = [4, 2, 5, 0, 3, 1]
    shuffled = trunk.row_losses(prompts, some_batch(trunk, order))
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-5)
    for row in range(len(TEXTS)):
        alone = trunk.row_losses(prompts, some_batch(trunk, [row]))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["t5", "v1.1", "mt5"])
def test_the_loaded_head_is_the_stored_one(folders: dict[str, Path], family: str, dtype: torch.dtype) -> None:
    """T5 v1.0 ties its head and scales before it; the others have a head and do not scale."""
    trunk = load(folders[family], dtype)
    stored = {name: value.to(dtype) for name, value in load_file(folders[family] / "model.safetensors").items()}
    head = stored.get("lm_head.weight", stored["shared.weight"])
    assert ("lm_head.weight" in stored) == (family != "t5")
    inputs = torch.tensor([ids(trunk, TEXTS[0])])
    output = trunk.model(input_ids=inputs, decoder_input_ids=torch.tensor([[0, 5]]), output_hidden_states=True)
    states = output.decoder_hidden_states[-1] * (32**-0.5 if family == "t5" else 1.0)
    torch.testing.assert_close(output.logits, states @ head.T)
    for name, weight in trunk.model.named_parameters():
        assert torch.equal(weight.to(dtype), stored[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_stays_near_fp32(folders: dict[str, Path], family: str) -> None:
    """No farther from fp32 than twice what transformers' own bf16 is on single rows."""
    exact, rounded = load(folders[family]), load(folders[family], torch.bfloat16)
    prompts = some_prompts(exact)
    batch = some_batch(exact)
    wanted = exact.row_losses(TargetPrompts.from_stacks(prompts), batch)
    losses = rounded.row_losses(TargetPrompts.from_stacks(prompts), batch)
    own = direct_losses(rounded, prompts)
    assert losses.dtype == torch.float32
    assert (losses - wanted).norm() <= 2 * (own - wanted).norm() + 1e-3
    wanted_grads, own_grads = gradients(wanted, prompts), gradients(own, prompts)
    for grad, own_grad, exact_grad in zip(gradients(losses, prompts), own_grads, wanted_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - exact_grad).norm() <= 2 * (own_grad - exact_grad).norm() + 1e-3


def direct_answers(trunk: ReferenceTrunk, prompts: list[Tensor], end: int, steps: int) -> list[list[int]]:
    answers = []
    for text, slot in zip(TEXTS, SLOTS, strict=True):
        inputs = direct_input(trunk, prompts[slot], text)
        answer = trunk.model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.int64),
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            use_cache=False,
        )[0, 1:].tolist()
        answers.append(answer[: answer.index(end)] if end in answer else answer)
    return answers


def test_greedy_answers_are_those_of_transformers(trunk: ReferenceTrunk, monkeypatch) -> None:
    prompts = some_prompts(trunk)
    target, batch = TargetPrompts.from_stacks(prompts), some_batch(trunk, labels=False)
    free = trunk.generate(target, batch, 7)
    assert free == direct_answers(trunk, prompts, trunk.end_id, 7)
    assert len({tuple(answer) for answer in free}) > 1
    # Any token may play the part of </s>: one that ends the rows after different lengths.
    end = max(
        {token for answer in free for token in answer},
        key=lambda token: len({answer.index(token) for answer in free if token in answer}),
    )
    monkeypatch.setattr(trunk, "end_id", end)
    ended = trunk.generate(target, batch, 7)
    assert ended == direct_answers(trunk, prompts, end, 7)
    assert len({len(answer) for answer in ended}) > 1


def test_generation_stops_once_all_rows_have_ended(t5: ReferenceTrunk, monkeypatch) -> None:
    prompts = TargetPrompts.from_stacks(some_prompts(t5))
    batch = some_batch(t5, [0], labels=False)
    first = t5.generate(prompts, batch, 1)[0][0]
    monkeypatch.setattr(t5, "end_id", first)
    steps = []
    forward = t5._decode
    monkeypatch.setattr(t5, "_decode", lambda *a, **k: steps.append(1) or forward(*a, **k))
    assert t5.generate(prompts, batch, 50) == [[]]
    assert len(steps) == 1
    assert t5.generate(prompts, batch, 0) == [[]]


@pytest.mark.parametrize("chunk", [padded.CHUNK_ELEMENTS, 5000, 1])
def test_label_scores_are_negative_losses(trunk: ReferenceTrunk, monkeypatch, chunk: int) -> None:
    """However the candidates are cut into chunks, in the middle of a row or not."""
    monkeypatch.setattr(padded, "CHUNK_ELEMENTS", chunk)
    prompts = TargetPrompts.from_stacks(some_prompts(trunk))
    batch = some_batch(trunk, labels=False)
    words = [ids(trunk, label) for label in LABELS]
    candidates = [words, words[:1], [[1]], words[2:4], [[9, 1], [9, 4, 1], [1]], words]
    scores = trunk.label_scores(prompts, batch, candidates)
    assert [len(row) for row in scores] == [len(row) for row in candidates]
    inputs = [ids(trunk, text) for text in TEXTS]
    for row, row_candidates in enumerate(candidates):
        copies = len(row_candidates)
        losses = trunk.row_losses(
            prompts,
            make_batch([inputs[row]] * copies, row_candidates, [SLOTS[row]] * copies),
        )
        torch.testing.assert_close(scores[row], -losses.detach(), rtol=1e-5, atol=1e-4)


def test_chunks_of_candidates_grow_with_what_they_may_hold(t5: ReferenceTrunk, monkeypatch) -> None:
    # Cross-attention caches: 2 * 3 layers * 24 inner * 10 tokens; logits: 384 embeddings a token.
    monkeypatch.setattr(padded, "CHUNK_ELEMENTS", 14400)
    assert t5._pairs_at_once(width=10, max_label=1) == 10
    assert t5._pairs_at_once(width=10, max_label=10) == 3
    assert t5._pairs_at_once(width=10_000, max_label=1) == 1


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(folders: dict[str, Path], t5: ReferenceTrunk) -> None:
    trunk = load(folders["t5"], device="cuda")
    check_losses_and_gradients(trunk)
    words = [[ids(t5, label) for label in LABELS]] * len(TEXTS)
    here, there = (TargetPrompts.from_stacks(some_prompts(each)) for each in (t5, trunk))
    batch = some_batch(t5, labels=False)
    moved = batch.to(trunk.device)
    assert trunk.generate(there, moved, 5) == t5.generate(here, batch, 5)
    scores = zip(trunk.label_scores(there, moved, words), t5.label_scores(here, batch, words), strict=True)
    for found, wanted in scores:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_means_and_maxima_are_over_each_text(trunk: ReferenceTrunk) -> None:
    texts = trunk.texts(some_batch(trunk))
    for row, text in enumerate(TEXTS):
        embedded = trunk.embedding[ids(trunk, text)]
        torch.testing.assert_close(texts.means[row], embedded.mean(0))
        assert torch.equal(texts.maxima[row], embedded.amax(0))


def test_mean_embeddings_of_bf16_are_summed_in_fp32(folders: dict[str, Path]) -> None:
    trunk = load(folders["t5"], torch.bfloat16)
    batch = make_batch([[17] * 999 + [18]], None, [0])
    wanted = (trunk.embedding[17].double() * 999 + trunk.embedding[18].double()) / 1000
    means = trunk.texts(batch).means
    assert means.dtype == torch.float32
    torch.testing.assert_close(means[0].double(), wanted, rtol=1e-5, atol=1e-6)


def test_no_weight_takes_a_gradient_and_the_fingerprint_tells(folders: dict[str, Path]) -> None:
    trunk = load(folders["t5"])
    before = trunk.fingerprint()
    prompts = some_prompts(trunk)
    trunk.row_losses(TargetPrompts.from_stacks(prompts), some_batch(trunk)).sum().backward()
    assert not trunk.model.training
    assert all(p.grad is None and not p.requires_grad for p in trunk.model.parameters())
    assert trunk.fingerprint() == before == load(folders["t5"]).fingerprint()
    last = list(trunk.model.parameters())[-1]
    last.view(-1)[-1] += 1e-3
    assert trunk.fingerprint() != before
    assert load(folders["t5"], torch.bfloat16).fingerprint() != before


def test_prompts_of_another_width_are_refused(t5: ReferenceTrunk) -> None:
    prompts = TargetPrompts.from_stacks([torch.zeros(5, 16)])
    with pytest.raises(InputError, match="d_model 16 do not fit the trunk .*d_model is 32"):
        t5.row_losses(prompts, make_batch([[1]], [[1]], [0]))


@pytest.mark.parametrize("slot", [-1, 1])
def test_a_row_without_a_slot_is_refused(t5: ReferenceTrunk, slot: int) -> None:
    prompts = TargetPrompts.from_stacks([torch.zeros(5, 32)])
    with pytest.raises(ValueError, match="only 1 target prompts"):
        t5.generate(prompts, make_batch([[1]], None, [slot]), 2)


def test_losses_without_labels_and_scores_without_candidates_are_refused(
    t5: ReferenceTrunk,
) -> None:
    prompts = TargetPrompts.from_stacks([torch.zeros(5, 32)])
    batch = make_batch([[1], [1]], None, [0, 0])
    with pytest.raises(ValueError, match="needs a label"):
        t5.row_losses(prompts, batch)
    with pytest.raises(ValueError, match=r"counts \[1\]"):
        t5.label_scores(prompts, batch, [[[1]]])
    with pytest.raises(ValueError, match=r"counts \[1, 0\]"):
        t5.label_scores(prompts, batch, [[[1]], []])
    with pytest.raises(ValueError, match="at least one token"):
        t5.label_scores(prompts, batch, [[[1]], [[1], []]])
