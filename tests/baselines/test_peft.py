"""PEFT's methods: a step is that of PEFT used directly, and what is kept loads in PEFT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast.baselines import peft as ours
from compt_fast.baselines.cohort import TunedCohort
from compt_fast.models.batch import Batch, make_batch
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training.cohort import Member
from compt_fast.utils.errors import InputError
from tests.baselines.conftest import Make, perturb, run_of, targets

peft = pytest.importorskip("peft")
TYPE = "SEQ_2_SEQ_LM"
DIRECT: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(task_type=TYPE, r=8, lora_alpha=8),
    "ia3": lambda: peft.IA3Config(task_type=TYPE),
    "prefix": lambda: peft.PrefixTuningConfig(
        task_type=TYPE, num_virtual_tokens=20, num_layers=3, num_attention_heads=3, token_dim=24
    ),
    "p-tuning": lambda: peft.PromptEncoderConfig(
        task_type=TYPE, num_virtual_tokens=20, num_transformer_submodules=1, encoder_hidden_size=128
    ),
}
RATE, DECAY = 0.01, 0.01
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def split(ids: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    return [part.tolist() for part in ids.split(lengths.tolist())]


@pytest.mark.parametrize("method", DIRECT)
def test_a_step_is_that_of_peft_alone(
    method: str, make: Make, fresh: Callable[[], ReferenceTrunk], batch: Batch
) -> None:
    """Loss, gradient, clipping and AdamW of torch, over `PeftModel.forward`."""
    trunk = make(method)
    perturb(trunk)
    theirs = peft.get_peft_model(fresh().model, DIRECT[method]())
    begun = dict(zip(theirs.state_dict(), trunk.tuned.peft.state_dict().values(), strict=True))
    theirs.load_state_dict(begun)
    theirs.eval()
    inputs, labels = split(batch.input_ids, batch.input_lengths), split(batch.label_ids, batch.label_lengths)
    ids = padded(inputs, 0)
    loss = theirs(input_ids=ids, attention_mask=(ids != 0).long(), labels=padded(labels, -100)).loss
    params = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=RATE, weight_decay=DECAY)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()

    run = run_of(method, trunk.d_model, lr_weights=RATE, weight_decay=DECAY, steps=1, batch_size=3, warmup=0.0)
    cohort = TunedCohort(run, trunk)
    rows = [TrainingRow(i, t, task) for i, t, task in zip(inputs, labels, batch.slots.tolist(), strict=True)]
    cohort.admit(Member(run, rows))
    _, finish = cohort.stepper.begin([cohort])
    found = finish()
    torch.testing.assert_close(found[0, 0], loss.detach())
    own = dict(trunk.tuned.peft.named_parameters())
    for name, wanted in theirs.named_parameters():
        torch.testing.assert_close(own[name], wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", DIRECT)
def test_what_is_kept_is_an_adapter_of_peft(
    method: str, make: Make, fresh: Callable[[], ReferenceTrunk], batch: Batch, tmp_path: Path
) -> None:
    trunk = make(method)
    perturb(trunk)
    trunk.tuned.save(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh().model, tmp_path).eval()
    inputs, labels = split(batch.input_ids, batch.input_lengths), split(batch.label_ids, batch.label_lengths)
    row = make_batch(inputs[:1], labels[:1], [0])
    with torch.no_grad():
        loss = loaded(
            input_ids=torch.tensor(inputs[:1]),
            attention_mask=torch.ones(1, len(inputs[0]), dtype=torch.long),
            labels=torch.tensor(labels[:1]),
        ).loss
        own = trunk.row_losses(targets(trunk), row)
    torch.testing.assert_close(own[0], loss * len(labels[0]), rtol=1e-4, atol=1e-5)


def test_without_peft_an_error_says_what_is_missing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install peft"):
        make("lora")
