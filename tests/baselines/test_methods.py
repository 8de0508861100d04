"""Each way to train weights: which they are, how many, and that answers follow from them alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compt_fast.baselines.making import counted, tuned
from compt_fast.baselines.methods import TUNINGS
from compt_fast.config.baselines import BASELINES
from compt_fast.config.flags import read_flags
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.runs.job import open_job
from compt_fast.utils.errors import InputError
from tests.baselines.conftest import TASKS, Make, perturb, run_of, targets
from tests.helpers import jobs
from tests.helpers.tiny_trunks import make_trunk

D, INNER, FF, ENCODER, DECODER, VOCABULARY = 32, 24, 48, 2, 3, 384  # of tests.helpers.tiny_t5
NORMS = (2 * ENCODER + 3 * DECODER + 2) * D
ATTENTIONS = ENCODER + 2 * DECODER
ONE = 1  # d / 32, the width of adapters
HYPER = 64 * (D + 2 * ONE * D + ONE) + (2 * ONE * D + D + ONE) + 2 * 65 * D  # matrices, biases, gain and shift
PROJECTED = (192 + 1) * 128 + (128 + 1) * 64 + 2 * 64 + 2 * 64  # two layers, their norm, embeddings of both places
COUNTS = {
    "bitfit": NORMS + ATTENTIONS * (3 * INNER + D) + (ENCODER + DECODER) * (FF + D) + VOCABULARY,
    "adapter": 2 * (ENCODER + DECODER) * (2 * ONE * D + ONE + D) + NORMS,
    "lora": ATTENTIONS * 2 * 8 * (D + INNER),
    "ia3": ATTENTIONS * 2 * INNER + (ENCODER + DECODER) * FF,
    "prefix": 20 * DECODER * 2 * INNER,
    "p-tuning": 20 * D + (D + 1) * 128 + (128 + 1) * 128 + (128 + 1) * D,
    "hyperformer-m": 64 * TASKS + 2 * (PROJECTED + HYPER) + (ENCODER + DECODER) * 64 + NORMS,
    "hyperdecoder-m": ENCODER * (2 * 64 * D + 64 + D)
    + 2 * (D + 1) * D
    + DECODER * 10
    + (D + 11) * 128
    + 129 * (2 * 64 * D + 64 + D),
}


@pytest.mark.parametrize("method", COUNTS)
def test_as_many_weights_train_as_the_formula_says(method: str, fresh: Callable[[], ReferenceTrunk]) -> None:
    trunk = fresh()
    (run,) = counted([run_of(method, D)], trunk, "auto")
    assert run.parameters == COUNTS[method]
    made = tuned(trunk.model, run.config, TASKS)
    assert sum(p.numel() for p in made.trained().values()) == COUNTS[method]
    assert run.shape.target_length == (20 if method == "p-tuning" else 0)


def test_fine_tuning_trains_all_of_it(fresh: Callable[[], ReferenceTrunk]) -> None:
    trunk = fresh()
    (run,) = counted([run_of("finetune", D)], trunk, "auto")
    assert run.parameters == sum(p.numel() for p in trunk.model.parameters())


def test_every_baseline_has_a_file_and_every_file_a_baseline() -> None:
    assert {preset.weights for preset in BASELINES.values()} == set(TUNINGS)


@pytest.mark.parametrize("method", [name for name in BASELINES if name not in ("finetune-m", "adapter-m")])
def test_gradients_reach_what_trains_and_nothing_else(method: str, make: Make, batch: Batch) -> None:
    trunk = make(method)
    perturb(trunk)
    trained = trunk.tuned.trained()
    trunk.row_losses(targets(trunk), batch).sum().backward()
    unused = {name for name, p in trained.items() if p.grad is None or not p.grad.any()}
    assert unused == set()
    assert all(p.grad is None for name, p in trunk.tuned.named_parameters() if name not in trained)


@pytest.mark.parametrize("method", ["finetune", "lora", "prefix", "p-tuning", "hyperformer-m", "hyperdecoder-m"])
def test_a_row_is_the_same_alone_and_among_others(method: str, make: Make, batch: Batch) -> None:
    trunk = make(method)
    perturb(trunk)
    trunk.tuned.double()
    with torch.no_grad():
        prompts = targets(trunk)
        together = trunk.row_losses(prompts, batch)
        each = [trunk.row_losses(prompts, batch.take(torch.tensor([row]))) for row in range(batch.rows)]
        candidates = [[[21, 1], [22, 23, 1]], [[24, 25, 1]], [[26, 1], [27, 28, 1], [29, 1]]]
        scores = trunk.label_scores(prompts, batch, candidates)
        for row, own in enumerate(scores):
            one = batch.take(torch.tensor([row]))
            alone = [trunk.label_scores(prompts, one, [[label]])[0] for label in candidates[row]]
            torch.testing.assert_close(own, torch.cat(alone), rtol=1e-5, atol=1e-6)
        written = trunk.generate(prompts, batch, 4)
        assert written == [trunk.generate(prompts, batch.take(torch.tensor([r])), 4)[0] for r in range(batch.rows)]
    torch.testing.assert_close(together, torch.cat(each))


@pytest.mark.parametrize("method", ["bitfit", "lora", "ia3"])
def test_what_begins_without_effect_is_the_trunk(
    method: str, make: Make, fresh: Callable[[], ReferenceTrunk], batch: Batch
) -> None:
    trunk = make(method)
    empty = targets(trunk)
    torch.testing.assert_close(trunk.row_losses(empty, batch), fresh().row_losses(empty, batch))


def test_bitfit_shifts_every_layer(make: Make, fresh: Callable[[], ReferenceTrunk]) -> None:
    """Held against the formula for a layer norm and a linear layer."""
    trunk = make("bitfit")
    perturb(trunk)
    norm, plain = trunk.model.encoder.final_layer_norm, fresh().model.encoder.final_layer_norm
    x = torch.randn(2, 5, D)
    torch.testing.assert_close(norm(x), plain(x) + norm.bias)
    linear = trunk.model.decoder.block[0].layer[1].EncDecAttention.k
    torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)


def test_fine_tuning_learns_embeddings_where_they_are_read(make: Make, batch: Batch) -> None:
    """Also where the head is tied to them, the gradient of a token that is only read is that of the encoder's input."""
    trunk = make("finetune")
    trunk.row_losses(targets(trunk), batch).sum().backward()
    shared = trunk.model.shared.weight
    grad, read = shared.grad.clone(), trunk.tuned.trained()
    assert "model.shared.weight" in read
    update = torch.zeros(batch.input_tokens, D, requires_grad=True)
    other = make("finetune")
    other.row_losses(targets(other), batch, update).sum().backward()
    by_place = F.one_hot(batch.input_ids, VOCABULARY).float().T @ update.grad
    head = grad - by_place  # what the head and the decoder's input leave
    token = 30  # is read by the encoder only, so that the head's part is that of its logits alone
    logits_only = make("finetune")
    logits_only._text = lambda batch, update: F.embedding(batch.input_ids, shared.detach())  # type: ignore[method-assign]
    logits_only.row_losses(targets(logits_only), batch).sum().backward()
    torch.testing.assert_close(head[token], logits_only.model.shared.weight.grad[token], rtol=1e-4, atol=1e-6)


def test_seeds_and_tasks_draw_weights_of_their_own(make: Make) -> None:
    def drawn(**changes: int) -> torch.Tensor:
        return make("adapter", **changes).tuned.trained()["adapters.0.down.weight"]

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), drawn(seed=1))


def test_a_bottleneck_is_what_the_flag_says(make: Make) -> None:
    assert make("adapter", bottleneck=5).tuned.trained()["adapters.0.down.weight"].shape == (5, D)
    assert make("lora", bottleneck=3).tuned.model.encoder.block[0].layer[0].SelfAttention.q.scaling == {"default": 1.0}


def test_over_a_trunk_in_bf16_weights_stay_in_fp32(tiny_t5: object, make: Make, batch: Batch) -> None:
    from compt_fast.baselines.making import tuned_trunk

    half = ReferenceTrunk.load(str(tiny_t5), dtype=torch.bfloat16, device="cpu", prompt_position="prepend")
    trunk = tuned_trunk(half, run_of("finetune", D))
    loss = trunk.row_losses(targets(trunk), batch)
    whole = make("finetune").row_losses(targets(make("finetune")), batch)
    assert {p.dtype for p in trunk.tuned.trained().values()} == {torch.float32}
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, whole, rtol=0.05, atol=0.05)
    assert not torch.equal(loss, whole)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_every_baseline_refuses_another_trunk_when_its_job_opens(family: str, tmp_path: Path, toys: list[Path]) -> None:
    chosen = jobs.settings(make_trunk(tmp_path / family, family), toys[:1], prompt_length=None)
    trunk = jobs.opened(chosen).trunk
    for method in BASELINES:
        flags = read_flags(chosen | {"method": f"spp,{method}"}, None)
        with pytest.raises(InputError, match=rf"{method} changes the layers of a T5, and the trunk .* is a {family}"):
            open_job(flags, trunk=trunk)


def test_an_empty_prompt_is_no_prompt(fresh: Callable[[], ReferenceTrunk], batch: Batch) -> None:
    """What baselines without prompts are scored with: transformers' own loss of the text alone."""
    trunk, row = fresh(), batch.take(torch.tensor([2]))
    own = trunk.row_losses(TargetPrompts.from_stacks([torch.zeros(TASKS, 0, D)]), row)
    theirs = trunk.model(input_ids=row.input_ids[None], labels=row.label_ids[None]).loss * len(row.label_ids)
    torch.testing.assert_close(own[0], theirs)
