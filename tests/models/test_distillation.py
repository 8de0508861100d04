"""Teachers of some rows: both engines, and transformers on one row at a time with the divergence written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast.models.api import Trunk, open_trunk
from compt_fast.models.batch import TargetPrompts
from compt_fast.models.distillation import Teachers
from compt_fast.models.engines import fast
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.t5 import head
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_t5 import make_t5
from tests.helpers.trunk_rows import LABELS, SLOTS, TEXTS, gradients, ids, some_batch, some_prompts

ROWS, TEACHERS = [0, 1, 3, 5], [1, 0, 2, 1]
WEIGHT, TAU, HIDDEN = [0.9, 2.0, 0.3, 0.9], [1.0, 3.0, 0.5, 1.0], [0.7, 0.0, 1.5, 0.2]


@pytest.fixture(scope="module", params=[("t5", "prepend"), ("v1.1", "append")], ids=["t5", "v1.1 appended"])
def trunks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PackedTrunk, ReferenceTrunk]:
    family, position = request.param
    folder = make_t5(tmp_path_factory.mktemp("trunk"), family)
    packed, reference = (open_trunk(name, str(folder), prompt_position=position) for name in ("fast", "reference"))
    assert isinstance(packed, PackedTrunk) and isinstance(reference, ReferenceTrunk)
    return packed, reference


def prompts_of_teachers(trunk: Trunk, hidden: bool = False) -> list[Tensor]:
    """Three, of other lengths than the rows' own; of equal ones where hidden states are compared."""
    return some_prompts(trunk, (3, 5, 3) if hidden else (4, 7, 2), seed=11)


def teachers_of(trunk: Trunk, hidden: bool = False) -> Teachers:
    own = TargetPrompts.from_stacks([prompt.detach() for prompt in prompts_of_teachers(trunk, hidden)])
    weight, tau = torch.tensor(WEIGHT), torch.tensor(TAU)
    rows, slots = torch.tensor(ROWS), torch.tensor(TEACHERS)
    return Teachers(rows, own, slots, weight, tau, torch.tensor(HIDDEN) if hidden else torch.zeros(4))


def read(trunk: ReferenceTrunk, prompt: Tensor, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (M, V), encoder states (L, d) and decoder states (M, d) of one row under a prompt."""
    parts = [prompt, trunk.embedding[torch.tensor(ids(trunk, TEXTS[row]))]]
    inputs = torch.cat(parts if trunk.prompt_position == "prepend" else parts[::-1])[None]
    target = torch.tensor([ids(trunk, LABELS[row])])
    found = trunk.model(inputs_embeds=inputs, labels=target, output_hidden_states=True)
    return found.logits[0], found.encoder_last_hidden_state[0], found.decoder_hidden_states[-1][0]


def direct_losses(trunk: ReferenceTrunk, prompts: list[Tensor], hidden: bool) -> Tensor:
    taught, losses = prompts_of_teachers(trunk, hidden), []
    for row, slot in enumerate(SLOTS):
        logits, encoder, decoder = read(trunk, prompts[slot], row)
        target = torch.tensor(ids(trunk, LABELS[row]))
        loss = -logits.log_softmax(1)[torch.arange(len(target)), target].sum()
        if row in ROWS:
            at = ROWS.index(row)
            with torch.no_grad():
                wanted, *states = read(trunk, taught[TEACHERS[at]], row)
            p, q = (x.double().div(TAU[at]).softmax(1) for x in (logits, wanted))
            loss = loss + WEIGHT[at] * TAU[at] ** 2 * (q * (q / p).log()).sum()
            if hidden:
                squares = [(a - b).square().mean() for a, b in zip((encoder, decoder), states, strict=True)]
                loss = loss + HIDDEN[at] * len(target) * (squares[0] + squares[1])
        losses.append(loss.float())
    return torch.stack(losses)


def check(losses: Tensor, prompts: list[Tensor], wanted: Tensor, wanted_grads: list[Tensor]) -> None:
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(losses, prompts), wanted_grads, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() > 0


def test_losses_and_gradients_are_those_of_the_formula(
    trunks: tuple[PackedTrunk, ReferenceTrunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, reference = trunks
    prompts, batch = some_prompts(reference), some_batch(reference)
    wanted = direct_losses(reference, prompts, hidden=False)
    wanted_grads = gradients(wanted, prompts)
    flat = TargetPrompts.from_stacks(prompts)
    for trunk in trunks:
        check(trunk.row_losses(flat, batch, teachers=teachers_of(trunk)), prompts, wanted, wanted_grads)
        with torch.no_grad():
            torch.testing.assert_close(trunk.row_losses(flat, batch, teachers=teachers_of(trunk)), wanted)
    check(packed._sorted_losses(flat, batch, None, teachers_of(packed)), prompts, wanted, wanted_grads)
    monkeypatch.setattr(fast, "CACHED_TOKENS", 20)
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 1)
    check(packed.row_losses(flat, batch, teachers=teachers_of(packed)), prompts, wanted, wanted_grads)


def test_rows_without_a_teacher_keep_their_bits(trunks: tuple[PackedTrunk, ReferenceTrunk]) -> None:
    for trunk in trunks:
        prompts, batch = some_prompts(trunk), some_batch(trunk)
        flat = TargetPrompts.from_stacks(prompts)
        plain, taught = trunk.row_losses(flat, batch), trunk.row_losses(flat, batch, teachers=teachers_of(trunk))
        assert torch.equal(plain[[2, 4]], taught[[2, 4]]) and bool((plain[ROWS] < taught[ROWS]).all())
        (before,), (after,) = (torch.autograd.grad(of[4], prompts[3]) for of in (plain, taught))
        assert torch.equal(before, after)


def test_a_row_under_its_teachers_own_prompt_learns_nothing_from_it(trunks: tuple[PackedTrunk, ReferenceTrunk]) -> None:
    for trunk in trunks:
        prompts, batch = some_prompts(trunk), some_batch(trunk)
        flat, nothing = TargetPrompts.from_stacks(prompts), torch.zeros(6)
        own = Teachers(torch.arange(6), flat, batch.slots, nothing + 1, nothing + 2, nothing)
        losses, plain = trunk.row_losses(flat, batch, teachers=own), trunk.row_losses(flat, batch)
        torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
        for one, other in zip(gradients(losses, prompts), gradients(plain, prompts), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_hidden_states_are_compared_by_the_reference(trunks: tuple[PackedTrunk, ReferenceTrunk]) -> None:
    packed, reference = trunks
    prompts, batch = some_prompts(reference, (3, 3, 5, 8)), some_batch(reference)
    wanted = direct_losses(reference, prompts, hidden=True)
    flat, taught = TargetPrompts.from_stacks(prompts), teachers_of(reference, hidden=True)
    losses = reference.row_losses(flat, batch, teachers=taught)
    check(losses, prompts, wanted, gradients(wanted, prompts))
    with pytest.raises(InputError, match=r"--distil-hidden: this engine compares no hidden states; take --engine ref"):
        packed.row_losses(flat, batch, teachers=taught)
    other = TargetPrompts.from_stacks(some_prompts(reference))
    with pytest.raises(ValueError, match="hidden states of prompts of"):
        reference.row_losses(other, batch, teachers=taught)


def test_teachers_that_are_not_there_are_refused(trunks: tuple[PackedTrunk, ReferenceTrunk]) -> None:
    flat, batch = TargetPrompts.from_stacks(some_prompts(trunks[0])), some_batch(trunks[0], range(4))
    for trunk in trunks:
        with pytest.raises(ValueError, match="teachers of rows"):
            trunk.row_losses(flat, batch, teachers=teachers_of(trunk))
