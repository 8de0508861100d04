"""What runs start from: the store's prompts, chosen, checked and fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast.config.flags import read_flags
from compt_fast.prompts.artifact import TextFormat, TrunkId
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.runs.initialisation import Initialisation, Need, entries_of, entry_name, select_sources
from compt_fast.runs.job import Job, open_job
from compt_fast.tasks.examples import JobData
from compt_fast.tasks.sampling import Draw, draw_training
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.tiny_t5 import make_t5

TASKS = ("toy_a", "toy_b", "toy_c")


@pytest.fixture(scope="module")
def plain(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def reopened(plain: Job, tiny_t5: Path, toys: list[Path], **changes: Any) -> Job:
    return open_job(read_flags(jobs.settings(tiny_t5, toys, **changes), None), trunk=plain.trunk)


def filled(folder: Path, job: Job, length: int = 2, tasks: tuple[str, ...] = TASKS, **changes: Any) -> PromptStore:
    """A store with a prompt of each task, named as stage one names them."""
    store = PromptStore(folder)
    trunk = TrunkId(job.trunk.name, job.trunk_hash, job.settings.dtype)
    for k, task in enumerate(tasks):
        values = torch.randn(length, 32, generator=torch.Generator().manual_seed(k))
        entry = StoredPrompt(f"{task}-m{length}", task, trunk, values)
        store.add(replace(entry, **changes))
    return store


def starts_of(job: Job, store: PromptStore) -> dict[str, dict[str, Tensor]]:
    """What the runs of each method start from; of one that trains each task alone, all tasks'."""
    starts = Initialisation(job, store, job.runs)
    found: dict[str, dict[str, list[Tensor]]] = {}
    for run in job.runs:
        of = found.setdefault(run.config.method, {})
        for name, values in starts.of(run).items():
            of.setdefault(name, []).append(values)
    return {method: {name: torch.cat(parts) for name, parts in of.items()} for method, of in found.items()}


def values(store: PromptStore, *tasks: str) -> Tensor:
    return torch.stack([store.load(f"{task}-m2").values for task in tasks])


def test_each_preset_starts_from_what_it_needs(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="spp,pt-joint,slp,pi,sil,sip,silp", source_tasks="toy_c,toy_a")
    store = filled(tmp_path, job)
    found = starts_of(job, store)
    assert found["spp"] == found["pt-joint"] == found["slp"] == {}
    assert set(found["pi"]) == {"private_tokens"}
    assert torch.equal(found["pi"]["private_tokens"], values(store, *TASKS))
    for method in ("sil", "sip", "silp"):
        assert set(found[method]) == {"source_tokens"}
        assert torch.equal(found[method]["source_tokens"], values(store, "toy_c", "toy_a"))
    starts = Initialisation(job, store, job.runs)
    assert starts.lacking() == []
    assert starts.used() == {name: store.load(name).sha256 for name in store.names()}


def test_runs_that_need_nothing_read_nothing(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    store = filled(tmp_path, plain)
    (tmp_path / "toy_a-m2" / "manifest.json").write_text("{")
    assert Initialisation(plain, store, plain.runs).needs == []
    job = reopened(plain, tiny_t5, toys, method="pi")
    with pytest.raises(InputError, match=r"toy_a-m2.manifest\.json: not well-formed json"):
        Initialisation(job, store, job.runs)


def test_a_damaged_prompt_of_another_task_stops_nothing(
    plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    job = reopened(plain, tiny_t5, toys, method="pi")
    store = filled(tmp_path, job, tasks=(*TASKS, "mini_qnli"))
    damaged = tmp_path / "mini_qnli-m2" / "prompt.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert torch.equal(starts_of(job, store)["pi"]["private_tokens"], values(store, *TASKS))
    own = tmp_path / "toy_b-m2" / "prompt.safetensors"
    own.write_bytes(own.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"toy_b-m2.prompt\.safetensors: cannot be read"):
        Initialisation(job, store, job.runs)


def test_what_the_store_lacks(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="sil", prompt_length="2,3", source_tasks="toy_a,mini_qnli")
    store = filled(tmp_path, job, tasks=("toy_a",))
    with pytest.raises(InputError, match=r"toy_a-m2 has 2 tokens and 3 are needed: say --fit-length first, mean-pool"):
        Initialisation(job, store, job.runs)
    job = reopened(
        plain, tiny_t5, toys, method="sil", prompt_length="2,3", source_tasks="toy_a,mini_qnli", fit_length="train"
    )
    starts = Initialisation(job, store, job.runs)
    assert starts.lacking() == [
        Need("mini_qnli", 2, "natural"),
        Need("toy_a", 3, "natural"),
        Need("mini_qnli", 3, "natural"),
    ]
    with pytest.raises(ValueError, match="has no prompt for"):
        starts.of(job.runs[0])


def test_stage_ones_own_prompts_of_other_lengths_are_in_no_sweeps_way(
    plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    job = reopened(plain, tiny_t5, toys, method="pi", prompt_length="2,3")
    store = PromptStore(tmp_path)
    for task in TASKS:
        filled(tmp_path, job, tasks=(task,), training={"config": {"method": "p", "shots": None, "task": task}})
    assert Initialisation(job, store, job.runs).lacking() == [Need(task, 3, "natural") for task in TASKS]
    fitted = reopened(plain, tiny_t5, toys, method="pi", prompt_length="3", fit_length="repeat")
    assert Initialisation(fitted, store, fitted.runs).lacking() == []


def test_another_length_is_fitted_as_asked(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="sil", fit_length="mean-pool")
    store = filled(tmp_path, job, length=6)
    filled(tmp_path, job, length=4, tasks=("toy_a",))
    tokens = starts_of(job, store)["sil"]["source_tokens"]
    expected = [store.load(f"{task}-m6").values.view(2, 3, 32).mean(1) for task in TASKS]
    torch.testing.assert_close(tokens, torch.stack(expected))
    filled(tmp_path, job, tasks=("toy_b",))
    tokens = starts_of(job, store)["sil"]["source_tokens"]
    assert torch.equal(tokens[1], store.load("toy_b-m2").values), "the right length goes before a fitted one"
    job = reopened(plain, tiny_t5, toys, method="sil", fit_length="repeat")
    with pytest.raises(InputError, match="which --fit-length repeat cannot give; take first or mean-pool"):
        Initialisation(job, store, job.runs)


def test_prompts_of_other_labels_and_texts_are_others(
    plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    job = reopened(plain, tiny_t5, toys, method="pi", label_mode="natural,numeric", prompt_position="append")
    store = filled(tmp_path, job, text=TextFormat(label_mode="natural", prompt_position="append"))
    starts = Initialisation(job, store, job.runs)
    assert starts.lacking() == [Need(task, 2, "numeric") for task in TASKS]
    names = [entry_name(need, starts.setting) for need in starts.lacking()]
    assert names == [f"{task}-m2-numeric-append" for task in TASKS]
    assert entry_name(Need("rte", 10, "natural"), TextFormat(prefix=False)) == "rte-m10-no-prefix"
    job = reopened(plain, tiny_t5, toys, method="pi")
    with pytest.raises(InputError, match="has a prompt 'toy_a-m2' that is not the prompt of task toy_a with 2 tokens"):
        Initialisation(job, store, job.runs)


def test_two_prompts_of_one_task_are_one_too_many(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="pi")
    store = filled(tmp_path, job)
    store.add(replace(store.load("toy_a-m2"), name="mine"))
    with pytest.raises(InputError, match=r"has 2 prompts of task toy_a with 2 tokens \(mine, toy_a-m2\)"):
        Initialisation(job, store, job.runs)


def test_prompts_of_another_trunk(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="pi")
    store = filled(tmp_path / "store", job)
    other = jobs.opened(jobs.settings(make_t5(tmp_path / "other", seed=1), toys, method="pi"))
    with pytest.raises(InputError, match=r"stored prompt toy_a-m2 belongs to trunk .* whose weights differ"):
        Initialisation(other, store, other.runs)
    wide = PromptStore(tmp_path / "wide")
    wide.add(replace(store.load("toy_a-m2"), values=torch.randn(2, 768)))
    with pytest.raises(InputError, match="its d_model 768 does not fit trunk .* of d_model 32"):
        Initialisation(job, wide, job.runs)


def test_prompts_of_the_trunk_in_another_precision_fit(
    plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    store = filled(tmp_path, plain)
    half = jobs.opened(jobs.settings(tiny_t5, toys, method="pi", dtype="bf16", device="cpu"))
    assert half.trunk_hash != plain.trunk_hash
    assert torch.equal(starts_of(half, store)["pi"]["private_tokens"], values(store, *TASKS))


# Development


def test_no_development_sample_holds_a_row_that_stage_one_trains_on(
    plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the stored prompts are there already or are still to be trained, and not for runs that start anew."""
    job = reopened(plain, tiny_t5, toys, method="sil,pi,spp,spot", select="best", source_examples=40)
    drawn: list[int] = []
    monkeypatch.setattr(JobData, "_input", lambda self, t, index: drawn.append(index) or [])

    def sample(starts: Initialisation, run: Run) -> dict[str, set[int]]:
        found = {}
        for data in job.data.tasks:
            if data.task.name in job.data.names(run.config):
                drawn.clear()
                one = JobData([data], job.settings, job.data.tokenizer)
                one.development(run.config, starts.seen(run))
                found[data.task.name] = set(drawn)
        return found

    lacking = Initialisation(job, PromptStore(tmp_path / "empty"), job.runs)
    config = replace(job.runs[0].config, shots=None, max_train=40, seed=0).to_json() | {"task": None}
    filled_ones = Initialisation(job, filled(tmp_path / "filled", job, training={"config": config}), job.runs)
    for starts in (lacking, filled_ones):
        for run in job.runs:
            for task, rows in sample(starts, run).items():
                data = next(data for data in job.data.tasks if data.task.name == task)
                trained = set(
                    draw_training(data.train.labels, data.task, Draw(None, 0, "balanced", 40), development=False)
                )
                assert rows, "eight of the 48 rows are left"
                assert bool(rows & trained) == (run.config.method == "spp")


# SPoT


def test_the_nearest_other_task_is_selected() -> None:
    def prompt(x: float, y: float) -> list[list[float]]:
        return [[x + 1, y], [x - 1, y]]  # the mean token is (x, y)

    own = torch.tensor([prompt(1, 0), prompt(0, 1)])
    stored = torch.tensor([prompt(2, 0), prompt(-1, 3), prompt(1, 0.5), prompt(0, -9)])
    assert select_sources(own, stored, ["a", "b"], ["a", "c", "d", "e"]) == ["d", "c"]
    assert select_sources(own, stored, ["z", "b"], ["a", "c", "d", "e"]) == ["a", "c"]


def test_spot_starts_from_the_selected(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="pt-joint", private_init="spot")
    store = filled(tmp_path, job)
    near = store.load("toy_a-m2").values * 3 + 0.01
    store.add(replace(store.load("toy_c-m2"), values=near), replace=True)
    tokens = starts_of(job, store)["pt-joint"]["private_tokens"]
    assert torch.equal(tokens[0], near) and torch.equal(tokens[2], values(store, "toy_a")[0])
    assert not torch.equal(tokens[1], values(store, "toy_b")[0])
    job = reopened(plain, tiny_t5, toys, method="pt-joint", private_init="spot", source_tasks="toy_b")
    with pytest.raises(InputError, match="spot needs a source task beside toy_b; name more --source-tasks"):
        Initialisation(job, store, job.runs)


# From a run to a store


def test_a_runs_target_prompts_as_entries(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, method="scp", label_mode="numeric")
    jobs.train(job, job.runs, tmp_path / "run")
    name = job.runs[0].id
    entries = entries_of(tmp_path / "run" / "prompts" / name)
    targets = jobs.prompts(tmp_path / "run")[name]["targets"]
    (result,) = jobs.results(tmp_path / "run")["runs"]
    assert [entry.name for entry in entries] == [f"{task}-m4-numeric" for task in TASKS]
    for entry, target in zip(entries, targets, strict=True):
        assert torch.equal(entry.values, target) and entry.encoder == "mlp"
        scored = result["tasks"][entry.task]
        assert entry.score == {"metric": scored["primary"], "value": scored["scores"][scored["primary"]]}
        assert entry.trunk == TrunkId(job.trunk.name, job.trunk_hash, "fp32")
        assert entry.training["run"] == name and entry.training["config"]["method"] == "scp"
        assert entry.text == TextFormat(True, "prepend", 32, "numeric")
        assert entry.definition in [replace(data.task, path=None) for data in job.data.tasks]
    # A copy of the folder elsewhere has no results beside it.
    (tmp_path / "run" / "prompts" / name).rename(tmp_path / "alone")
    assert [entry.score for entry in entries_of(tmp_path / "alone")] == [None] * 3


def test_prompts_of_each_row_are_no_entries(plain: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = reopened(plain, tiny_t5, toys, gates="input")
    jobs.train(job, job.runs, tmp_path / "run")
    with pytest.raises(InputError, match="with gates 'input' every row has a prompt of its own"):
        entries_of(tmp_path / "run" / "prompts" / job.runs[0].id)
