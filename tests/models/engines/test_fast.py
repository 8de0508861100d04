"""The packed engine against transformers, by way of the reference engine, on every family."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.engines import fast
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.t5.encoder import encode
from compt_fast.runs.job import MINI_WEIGHTS
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_t5 import FAMILIES, make_t5
from tests.helpers.trunk_rows import LABELS, TEXTS, gradients, ids, some_batch, some_prompts

Pair = tuple[PackedTrunk, ReferenceTrunk]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trunks")
    return {name: make_t5(root / name, name, seed=seed) for seed, name in enumerate(FAMILIES)}


def load(folder: Path, dtype=torch.float32, device="cpu", position="prepend") -> Pair:
    how = {"dtype": dtype, "device": device, "prompt_position": position}
    return PackedTrunk.load(str(folder), **how), ReferenceTrunk.load(str(folder), **how)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Pair:
    return load(folders[request.param])


@pytest.fixture(scope="module")
def t5(folders: dict[str, Path]) -> Pair:
    return load(folders["t5"])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def anywhere(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Pair:
    return load(folders["t5"], device=request.param)


def check_losses_and_gradients(pair: Pair, prompts: Sequence[Tensor], batch: Batch) -> None:
    losses, wanted = (trunk.row_losses(TargetPrompts.from_stacks(prompts), batch) for trunk in pair)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    grads, wanted_grads = gradients(losses, prompts), gradients(wanted, prompts)
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - wanted_grad).norm() <= 1e-4 * wanted_grad.norm()


def made_batch(trunk: Trunk, lengths: Sequence[int], slots: int, seed: int = 0) -> Batch:
    """Rows of random tokens, with labels of one to four tokens, in random slots."""
    rng = random.Random(seed)

    def text(length: int) -> list[int]:
        return [*rng.choices(range(3, 200), k=length - 1), trunk.end_id]

    return make_batch(
        [text(length) for length in lengths],
        [text(rng.randint(1, 4)) for _ in lengths],
        [rng.randrange(slots) for _ in lengths],
    ).to(trunk.device)


def test_losses_and_gradients_are_those_of_transformers(pair: Pair) -> None:
    check_losses_and_gradients(pair, some_prompts(pair[0]), some_batch(pair[0]))


def test_appended_prompts_stand_behind_the_text(folders: dict[str, Path]) -> None:
    pair = load(folders["v1.1"], position="append")
    check_losses_and_gradients(pair, some_prompts(pair[0]), some_batch(pair[0]))


def test_without_the_extension_all_is_the_same(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: False)
    prompts = some_prompts(pair[0])
    check_losses_and_gradients(pair, prompts, some_batch(pair[0]))
    target, batch = TargetPrompts.from_stacks(prompts), some_batch(pair[0], labels=False)
    answers = [trunk.generate(target, batch, 4) for trunk in pair]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [1, 1, 1],
        [7, 13, 31, 2, 3, 5],
        [9] * 8,
        [1, 3, 240, 2, 130],
        [random.Random(5).randint(1, 60) for _ in range(200)],
    ],
    ids=["one token", "single tokens", "primes", "equal", "extreme", "200 rows"],
)
def test_rows_of_any_lengths(anywhere: Pair, lengths: list[int]) -> None:
    check_losses_and_gradients(anywhere, some_prompts(anywhere[0]), made_batch(anywhere[0], lengths, slots=4))


@pytest.mark.parametrize("name", ["t5", "mini"])
def test_how_many_rows_a_cpu_takes_at_a_time_changes_no_bit(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.get(name, MINI_WEIGHTS)
    trunk = PackedTrunk.load(str(folder), dtype=torch.float32, device="cpu", prompt_position="prepend")
    rng = random.Random(6)
    prompts, lengths = some_prompts(trunk), [rng.randint(10, 60) for _ in range(40)]
    batch, found = made_batch(trunk, lengths, slots=4), []
    for tokens in (10**9, 100, 1):
        monkeypatch.setattr(fast, "CACHED_TOKENS", tokens)
        losses = trunk.row_losses(TargetPrompts.from_stacks(prompts), batch)
        answers = trunk.generate(TargetPrompts.from_stacks(prompts), batch, 4)
        found.append((losses, gradients(losses, prompts), answers))
    for losses, grads, answers in found[1:]:
        assert torch.equal(losses, found[0][0]) and answers == found[0][2]
        assert all(map(torch.equal, grads, found[0][1]))


def test_slots_without_prompt_tokens_read_the_text_alone(t5: Pair) -> None:
    prompts = some_prompts(t5[0], (0, 4, 2))
    batch = made_batch(t5[0], [3, 8, 5, 8], slots=3)
    losses, wanted = (trunk.row_losses(TargetPrompts.from_stacks(prompts), batch) for trunk in t5)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    bare = TargetPrompts.from_stacks([torch.zeros(0, 32, requires_grad=True)] * 3)
    losses, wanted = (trunk.row_losses(bare, batch) for trunk in t5)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    losses.sum().backward()  # nothing to differentiate is no error


def test_a_batch_of_27_runs(anywhere: Pair) -> None:
    t5, device = anywhere, anywhere[0].device
    runs, tasks = 27, 3
    stack = torch.randn(runs, tasks, 5, 32, generator=torch.Generator().manual_seed(1)).to(device)
    stack.requires_grad_()
    prompts = list(stack.flatten(0, 1))
    rng = random.Random(2)
    lengths = [rng.randint(2, 40) for _ in range(runs * 4)]
    batch = made_batch(t5[0], lengths, slots=runs * tasks)
    check_losses_and_gradients(t5, prompts, batch)
    whole = t5[0].row_losses(TargetPrompts.from_stacks([stack]), batch)
    one_run = (batch.slots // tasks == 4).nonzero()[:, 0]
    inputs = batch.input_ids.split(batch.input_lengths.tolist())
    labels = batch.label_ids.split(batch.label_lengths.tolist())
    alone = t5[0].row_losses(
        TargetPrompts.from_stacks(prompts),
        make_batch(
            [inputs[b].tolist() for b in one_run],
            [labels[b].tolist() for b in one_run],
            batch.slots[one_run].tolist(),
        ).to(device),
    )
    torch.testing.assert_close(whole[one_run], alone, rtol=1e-5, atol=1e-5)


def test_neither_neighbours_nor_order_change_a_row(pair: Pair) -> None:
    trunk, _ = pair
    prompts = TargetPrompts.from_stacks([prompt.detach() for prompt in some_prompts(trunk)])
    together = trunk.row_losses(prompts, some_batch(trunk))
    order = [4, 2, 5, 0, 3, 1]
    shuffled = trunk.row_losses(prompts, some_batch(trunk, order))
    torch.testing.assert_close(shuffled, together[order], rtol=1e-5, atol=1e-5)
    for row in range(len(TEXTS)):
        alone = trunk.row_losses(prompts, some_batch(trunk, [row]))
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-5, atol=1e-5)


def test_a_neighbour_that_is_not_finite_spoils_no_other_row(t5: Pair) -> None:
    prompts = some_prompts(t5[0], (3, 3))
    spoilt = [prompts[0], torch.full_like(prompts[1], torch.nan).requires_grad_()]
    batch = make_batch([[5, 6, 1], [7, 1], [8, 9, 9, 1]], [[4, 1], [5, 1], [6, 1]], [0, 1, 0])
    losses = t5[0].row_losses(TargetPrompts.from_stacks(spoilt), batch)
    healthy = t5[0].row_losses(TargetPrompts.from_stacks(prompts), batch)
    assert losses.isfinite().tolist() == [True, False, True]
    torch.testing.assert_close(losses[[0, 2]], healthy[[0, 2]], rtol=1e-5, atol=1e-5)
    grad, wanted = (torch.autograd.grad(x.sum(), prompts[0])[0] for x in (losses, healthy))
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [None, 200])
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_strays_from_fp32_no_more_than_twice_what_transformers_does(
    folders: dict[str, Path], family: str, rows: int | None, device: str
) -> None:
    """Over several prompts together: a single one's error hangs on which relus happen to flip."""
    _, exact = load(folders[family], device=device)
    rounded = load(folders[family], torch.bfloat16, device)
    errors = {name: [0.0, 0.0] for name in ("losses", "gradients")}
    lengths = [random.Random(5).randint(1, 60) for _ in range(rows or 0)]
    for seed in range(4):
        prompts = some_prompts(exact, seed=seed)
        batch = made_batch(exact, lengths, slots=4, seed=seed) if rows else some_batch(exact)
        wanted = exact.row_losses(TargetPrompts.from_stacks(prompts), batch)
        wanted_grads = gradients(wanted, prompts)
        for i, trunk in enumerate(rounded):
            losses = trunk.row_losses(TargetPrompts.from_stacks(prompts), batch)
            assert losses.dtype == torch.float32
            errors["losses"][i] += float((losses - wanted).detach().square().sum())
            for grad, wanted_grad in zip(gradients(losses, prompts), wanted_grads, strict=True):
                assert grad.dtype == torch.float32
                errors["gradients"][i] += float((grad - wanted_grad).square().sum())
    for own, transformers in errors.values():
        assert 0 < own**0.5 <= 2 * transformers**0.5


def test_greedy_answers_are_those_of_transformers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = TargetPrompts.from_stacks(some_prompts(pair[0]))
    batch = some_batch(pair[0], labels=False)
    free = [trunk.generate(prompts, batch, 7) for trunk in pair]
    assert free[0] == free[1]
    assert len({tuple(answer) for answer in free[0]}) > 1
    # Any token may play the part of </s>: one that ends the rows after different lengths.
    end = max(
        {token for answer in free[0] for token in answer},
        key=lambda token: len({answer.index(token) for answer in free[0] if token in answer}),
    )
    for trunk in pair:
        monkeypatch.setattr(trunk, "end_id", end)
    ended = [trunk.generate(prompts, batch, 7) for trunk in pair]
    assert ended[0] == ended[1]
    assert len({len(answer) for answer in ended[0]}) > 1
    assert pair[0].generate(prompts, batch, 0) == [[] for _ in TEXTS]


def test_answers_in_bf16_are_likely_ones(folders: dict[str, Path]) -> None:
    """Rounding may choose between near equals, and may choose nothing else."""
    (exact, _), (rounded, _) = load(folders["flan"]), load(folders["flan"], torch.bfloat16)
    prompts = TargetPrompts.from_stacks(some_prompts(exact))
    batch = some_batch(exact, labels=False)
    best, near = (trunk.generate(prompts, batch, 3) for trunk in (exact, rounded))
    candidates = [[a, b] for a, b in zip(best, near, strict=True)]
    for scores in exact.label_scores(prompts, batch, candidates):
        assert float(scores[0] - scores[1]) < 0.2


@pytest.mark.parametrize("room", [fast.ABSORBED_ELEMENTS, 5000, 1])
def test_label_scores_are_those_of_transformers(pair: Pair, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """However the rows are parted to bound what their candidates take."""
    monkeypatch.setattr(fast, "ABSORBED_ELEMENTS", room)
    trunk, reference = pair
    prompts = TargetPrompts.from_stacks(some_prompts(trunk))
    batch = some_batch(trunk, labels=False)
    words = [ids(trunk, label) for label in LABELS]
    shared = [[9, 1], [9, 4, 1], [1], [9, 4, 4, 1]]
    candidates = [words, words[:1], [[1]], words[2:4], shared, words]
    scores = trunk.label_scores(prompts, batch, candidates)
    wanted = reference.label_scores(prompts, batch, candidates)
    for found, expected in zip(scores, wanted, strict=True):
        assert found.dtype == torch.float32 and found.device.type == "cpu"
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_answers_and_scores_together_are_those_of_each_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit; the fast engine takes one pass of the encoder."""
    words = [ids(pair[0], label) for label in LABELS]
    prompts, batch = TargetPrompts.from_stacks(some_prompts(pair[0])), some_batch(pair[0], labels=False)
    candidates = [words] * batch.rows
    for trunk in pair:
        answers, scores = trunk.generate_and_score(prompts, batch, 5, candidates)
        assert answers == trunk.generate(prompts, batch, 5)
        for found, alone in zip(scores, trunk.label_scores(prompts, batch, candidates), strict=True):
            assert torch.equal(found, alone)
    passes: list[int] = []
    monkeypatch.setattr(fast, "encode", lambda *given: passes.append(1) or encode(*given))
    pair[0].generate_and_score(prompts, batch, 5, candidates)
    assert len(passes) == 1


def test_long_labels_attend_to_projected_keys_and_values(t5: Pair) -> None:
    trunk, reference = t5
    prompts = some_prompts(trunk)
    long = [*range(3, 60), trunk.end_id]
    batch = make_batch([[5, 1], [6, 7, 1], [9, 1]], [long, long[-3:], long[-9:]], [2, 0, 2])
    check_losses_and_gradients(t5, prompts, batch)
    target = TargetPrompts.from_stacks(prompts)
    assert trunk.generate(target, batch, 60) == reference.generate(target, batch, 60)
    candidates = [[long, long[1:]]] * 3
    scores = zip(*(each.label_scores(target, batch, candidates) for each in t5), strict=True)
    for found, wanted in scores:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_the_same_batch_gives_the_same_bits(t5: Pair) -> None:
    prompts, batch = some_prompts(t5[0]), some_batch(t5[0])
    first, second = (t5[0].row_losses(TargetPrompts.from_stacks(prompts), batch) for _ in range(2))
    assert torch.equal(first, second)
    for a, b in zip(gradients(first, prompts), gradients(second, prompts), strict=True):
        assert torch.equal(a, b)


def test_losses_without_gradients_are_the_same(t5: Pair) -> None:
    prompts, batch = some_prompts(t5[0]), some_batch(t5[0])
    losses = t5[0].row_losses(TargetPrompts.from_stacks(prompts), batch)
    with torch.no_grad():
        bare = t5[0].row_losses(TargetPrompts.from_stacks(prompts), batch)
    frozen = [prompt.detach() for prompt in prompts]
    fixed = t5[0].row_losses(TargetPrompts.from_stacks(frozen), batch)
    assert losses.requires_grad and not bare.requires_grad and not fixed.requires_grad
    assert torch.equal(losses.detach(), bare) and torch.equal(bare, fixed)


def test_a_second_backward_is_refused(t5: Pair) -> None:
    losses = t5[0].row_losses(TargetPrompts.from_stacks(some_prompts(t5[0])), some_batch(t5[0]))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        losses.sum().backward()


def test_texts_are_those_of_the_reference(pair: Pair) -> None:
    texts, wanted = (trunk.texts(some_batch(trunk)) for trunk in pair)
    assert torch.equal(texts.embeddings, wanted.embeddings) and torch.equal(texts.lengths, wanted.lengths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_is_the_checkpoints_until_a_weight_changes(
    folders: dict[str, Path], dtype: torch.dtype
) -> None:
    trunk, reference = load(folders["t5"], dtype)
    prompts = some_prompts(trunk)
    trunk.row_losses(TargetPrompts.from_stacks(prompts), some_batch(trunk)).sum().backward()
    assert trunk.fingerprint() == reference.fingerprint()
    trunk.weights.decoder[-1].cross.kv.view(-1)[-1] += 0.1
    assert trunk.fingerprint() != reference.fingerprint()


def test_what_does_not_fit_is_refused(t5: Pair) -> None:
    trunk, _ = t5
    wide = TargetPrompts.from_stacks([torch.zeros(5, 16)])
    with pytest.raises(InputError, match="d_model 16 do not fit the trunk .*d_model is 32"):
        trunk.row_losses(wide, make_batch([[1]], [[1]], [0]))
    prompts = TargetPrompts.from_stacks([torch.zeros(5, 32)])
    with pytest.raises(ValueError, match="only 1 target prompts"):
        trunk.generate(prompts, make_batch([[1]], None, [1]), 2)
    batch = make_batch([[1], [1]], None, [0, 0])
    with pytest.raises(ValueError, match="needs a label"):
        trunk.row_losses(prompts, batch)
    with pytest.raises(ValueError, match=r"counts \[1, 0\]"):
        trunk.label_scores(prompts, batch, [[[1]], []])
    with pytest.raises(ValueError, match="at least one token"):
        trunk.label_scores(prompts, batch, [[[1]], [[1], []]])


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_agrees_with_the_reference(folders: dict[str, Path], family: str) -> None:
    pair = load(folders[family], device="cuda")
    prompts = some_prompts(pair[0])
    check_losses_and_gradients(pair, prompts, some_batch(pair[0]))
    target, batch = TargetPrompts.from_stacks(prompts), some_batch(pair[0], labels=False)
    answers = [trunk.generate(target, batch.to("cuda"), 5) for trunk in pair]
    assert answers[0] == answers[1]
