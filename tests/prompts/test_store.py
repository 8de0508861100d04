"""The prompt store: the same bits back, and a clear word on whatever is wrong with an entry."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.prompts.artifact import TextFormat, TrunkId, load_prompts
from compt_fast.prompts.store import PromptStore, StoredPrompt, fit_length
from compt_fast.tasks.table import TASKS
from compt_fast.utils.errors import InputError
from tools.kills import Fault, Interposed

TRUNK = TrunkId("t5-base", "ab" * 32, "fp32")


def entry(name: str = "rte-m3", length: int = 3, d_model: int = 4, **changes: Any) -> StoredPrompt:
    values = torch.randn(length, d_model, generator=torch.Generator().manual_seed(1)) * 20
    return replace(StoredPrompt(name, "rte", TRUNK, values), **changes)


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(tmp_path / "deep" / "store")


def test_the_same_bits_and_words_come_back(store: PromptStore) -> None:
    assert store.names() == []
    score = {"metric": "accuracy", "value": 61.3}
    text = TextFormat(False, "append", 128, "numeric")
    given = entry(encoder="linear", score=score, training={"run": "p-k16-s0"}, text=text, definition=TASKS["rte"])
    given.values[0, 0] = -0.0
    store.add(given)
    found = store.load("rte-m3")
    assert torch.equal(found.values.view(torch.int32), given.values.view(torch.int32))
    assert (found.task, found.trunk, found.encoder, found.score) == ("rte", TRUNK, "linear", score)
    assert found.training == given.training and found.created
    assert (found.text, found.definition) == (text, TASKS["rte"])
    assert (found.length, found.d_model) == (3, 4)
    manifest = json.loads((store.folder / "rte-m3" / "manifest.json").read_text())
    assert manifest["trunk"] == {"name": "t5-base", "sha256": "ab" * 32, "dtype": "fp32", "family": None, "d_model": 4}
    assert (manifest["tensors"], manifest["sha256"]) == ({"prompt": [3, 4]}, given.sha256)
    assert manifest["definitions"]["rte"]["label_texts"] == ["0", "1"]


def test_what_tasks_share_comes_back_as_one(store: PromptStore) -> None:
    given = entry("mine", encoder="mlp", definition=TASKS["rte"], others={"sst2": TASKS["sst2"], "my_own": None})
    store.add(given)
    found = store.load("mine")
    assert found.tasks == ("rte", "sst2", "my_own") and found.others == given.others
    assert torch.equal(found.values, given.values) and found.sha256 == given.sha256
    prompts, about = load_prompts(store.folder / "mine", "prompt")
    assert torch.equal(prompts.tensors["targets"], given.values.expand(3, -1, -1))
    assert about.definitions == {"rte": TASKS["rte"], "sst2": TASKS["sst2"]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_kept_in_fp32(dtype: torch.dtype, store: PromptStore) -> None:
    values = entry().values.to(dtype)
    store.add(entry(values=values.T.contiguous().T))  # strides do not matter
    assert torch.equal(store.load("rte-m3").values, values.float())


def test_entries_are_listed_replaced_and_removed(store: PromptStore) -> None:
    for name in ("sst2", "cola.v2", "rte-m3"):
        store.add(entry(name))
    (store.folder / ".rte-m3.12345678").mkdir()  # what a crash left
    assert store.names() == ["cola.v2", "rte-m3", "sst2"]
    with pytest.raises(InputError, match="has a prompt 'sst2'; remove it first"):
        store.add(entry("sst2"))
    store.add(entry("sst2", length=5), replace=True)
    assert store.load("sst2").length == 5
    store.remove("sst2")
    assert store.names() == ["cola.v2", "rte-m3"]
    for action in (store.remove, store.load):
        with pytest.raises(InputError, match=r"unknown prompt in the store .* 'rte-m4'\. Did you mean 'rte-m3'\?"):
            action("rte-m4")


def test_a_killed_replacement_leaves_the_old_entry_or_the_new(store: PromptStore) -> None:
    """At every operation on files."""
    old, new = entry(), entry(length=5)
    for at in itertools.count(1):
        store.add(old, replace=True)
        child = os.fork()
        if child == 0:
            Interposed(store.folder, Fault("operation", at)).install()
            store.add(new, replace=True)
            os._exit(0)
        died = os.waitpid(child, 0)[1] != 0
        found = store.load("rte-m3")
        assert found.sha256 in (old.sha256, new.sha256), at
        if not died:
            break
    assert at > 15 and found.sha256 == new.sha256
    assert [path.name for path in store.folder.iterdir()] == ["rte-m3"], "what was left is cleaned up"


def test_what_a_dead_writer_left_is_removed(store: PromptStore) -> None:
    store.add(entry())
    before = sorted(store.folder.iterdir())
    (store.folder / ".lock").touch()  # as of one that died before it wrote its name
    half = store.folder / ".half.0123abcd"
    half.mkdir()
    (half / "manifest.json").touch()
    store.tidy()
    assert sorted(store.folder.iterdir()) == before
    store.tidy()
    assert sorted(store.folder.iterdir()) == before


def test_two_jobs_that_keep_the_same_prompt(store: PromptStore) -> None:
    given = entry(training={"run": "p-full-s0-rte"}, text=TextFormat(True, "prepend", 64, "natural"))
    store.keep(given)
    store.keep(given)
    rounded = replace(given, values=given.values * (1 + 1e-6))
    store.keep(rounded)  # trained in other company
    store.keep(replace(rounded, text=TextFormat(True, "prepend", 99, "natural")))
    assert torch.equal(store.load("rte-m3").values, given.values)
    with pytest.raises(InputError, match="has another prompt 'rte-m3' now, which was trained otherwise; remove it"):
        store.keep(replace(rounded, training={"run": "mine"}))
    with pytest.raises(InputError, match="which was trained otherwise"):
        store.keep(replace(rounded, text=TextFormat(label_mode="numeric")))


def test_removing_follows_no_link_and_no_folder(store: PromptStore, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    store.add(entry("sst2"))
    (store.folder / "link").symlink_to(tmp_path / "victim")
    store.remove("link")
    (store.folder / "sst2" / "deep").mkdir()
    with pytest.raises(InputError, match="holds a folder, as no entry of a store does: remove it yourself"):
        store.remove("sst2")
    assert (tmp_path / "victim" / "file").exists() and store.load("sst2").length == 3


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "-x"])
def test_names_that_are_no_folder(name: str, store: PromptStore) -> None:
    with pytest.raises(InputError, match="is no name of a stored prompt"):
        store.add(entry(name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(3), r"a prompt is a float tensor \(tokens, d_model\), not torch.float32 of shape \(3,\)"),
        (torch.zeros(0, 4), r"of shape \(0, 4\)"),
        (torch.zeros(3, 4, dtype=torch.int64), "not torch.int64"),
        (torch.tensor([[1.0, torch.nan]]), "holds values that are not finite"),
        (torch.eye(3).to_sparse(), "a torch.sparse_coo tensor on cpu; a prompt is a dense one with values"),
        (torch.empty(3, 4, device="meta"), "a torch.strided tensor on meta; a prompt is a dense one with values"),
        (torch.ones(1, 1).expand(10**6, 10**6), "1,000,000,000,000 values"),
        (torch.zeros(3, 4, dtype=torch.complex64), "not torch.complex64"),
        (torch.tensor([[1e300]], dtype=torch.float64), "holds values that are not finite"),
    ],
)
def test_values_that_are_no_prompt(values: torch.Tensor, message: str, store: PromptStore) -> None:
    with pytest.raises(InputError, match=message):
        store.add(entry(values=values))
    assert store.names() == []


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        PromptStore(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)"):
        PromptStore(tmp_path / "file" / "store").add(entry())


# Damage


def edited(part: str = "", **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        changed = {part: manifest[part] | changes} if part else changes
        path.write_text(json.dumps(manifest | changed))

    return edit


def without(key: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest[key]
        path.write_text(json.dumps(manifest))

    return edit


def cut(folder: Path) -> None:
    path = folder / "prompt.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def swapped(folder: Path) -> None:
    save_file({"prompt": torch.ones(3, 4)}, folder / "prompt.safetensors")


def renamed(folder: Path) -> None:
    save_file({"prompts": torch.ones(3, 4)}, folder / "prompt.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"prompt\.safetensors: cannot be read"),
        (lambda f: (f / "prompt.safetensors").unlink(), r"prompt\.safetensors: cannot be read"),
        (swapped, "its values are not those its manifest was written for"),
        (renamed, r"holds \{'prompts': \[3, 4\]\}, but its manifest says \{'prompt': \[3, 4\]\}"),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: no such file"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: not well-formed json"),
        (lambda f: (f / "manifest.json").write_text("[]"), "a JSON list where an object"),
        (edited(tensors={"prompt": [100, 4]}), r"holds .*\[3, 4\]\}, but its manifest says .*\[100, 4\]\}"),
        (edited("shape", d_model=768), "trunk: d_model must be that of its shape, 768"),
        (edited("shape", length=100), "its shape does not go with its tensors"),
        (edited("shape", composition="mst", sources=1, private=False), "its shape does not go with its tensors"),
        (edited(name="cola"), "its name is 'cola', but it stands in a folder called 'rte-m3'"),
        (edited(tasks=[3]), r"3 is no name of a task, in .*manifest\.json: tasks"),
        (edited(tasks=[]), r"manifest\.json: tasks: a stored prompt is of one task or more"),
        (edited(format=3), "of format 3, not 2"),
        (edited(score={"metric": "f1"}), "score: value must be a finite number"),
        (edited("trunk", hash="a"), "trunk: 'hash'. Known: name, sha256, dtype"),
        (edited("trunk", sha256=3), "trunk: sha256 must be a text or null, not 3"),
        (edited(sha256="0" * 64), "its values are not those"),
        (without("trunk"), "trunk is missing"),
        (without("training"), "training is missing"),
    ],
)
def test_damage_is_named(spoil: Callable[[Path], None], message: str, store: PromptStore) -> None:
    store.add(entry())
    spoil(store.folder / "rte-m3")
    with pytest.raises(InputError, match=message):
        store.load("rte-m3")
    store.remove("rte-m3")


# Trunks


def test_prompts_of_another_trunk_are_refused() -> None:
    prompt = entry()
    prompt.check(TrunkId("another name of it", TRUNK.sha256, "fp32"), 4)
    with pytest.raises(InputError, match=r"rte-m3: its d_model 4 does not fit trunk mini of d_model 192; .* t5-base"):
        prompt.check(TrunkId("mini", "0" * 64, "fp32"), 192)
    with pytest.raises(InputError, match=r"belongs to trunk t5-base \(sha256 abab.*not to t5-base \(sha256 0000"):
        prompt.check(TrunkId("t5-base", "0" * 64, "fp32"), 4)


def test_without_a_hash_the_name_decides() -> None:
    prompt = entry(trunk=TrunkId("t5-base"))
    prompt.check(TrunkId("t5-base", "0" * 64, "fp32"), 4)
    with pytest.raises(InputError, match=r"said to belong to trunk t5-base .* add it again with --model /models/t5"):
        prompt.check(TrunkId("/models/t5", "0" * 64, "fp32"), 4)


# Lengths


def test_fitting_a_length() -> None:
    long, short = entry(length=7), entry(length=3)
    assert torch.equal(fit_length(long, 7, "repeat"), long.values)
    assert torch.equal(fit_length(long, 4, "first"), long.values[:4])
    assert torch.equal(fit_length(short, 8, "repeat"), short.values[[0, 1, 2, 0, 1, 2, 0, 1]])
    pooled = fit_length(entry(length=6), 3, "mean-pool")
    torch.testing.assert_close(pooled, entry(length=6).values.view(3, 2, 4).mean(1))
    uneven = fit_length(long, 3, "mean-pool")
    ends = [(0, 3), (2, 5), (4, 7)]  # neighbours overlap where 7 is no multiple of 3
    torch.testing.assert_close(uneven, torch.stack([long.values[a:b].mean(0) for a, b in ends]))


@pytest.mark.parametrize(
    ("own", "asked", "how", "message"),
    [
        (3, 8, "first", "has 3 tokens and 8 are needed, which --fit-length first cannot give; take repeat"),
        (3, 8, "mean-pool", "take repeat"),
        (8, 3, "repeat", "take first or mean-pool"),
        (8, 3, "mean", r"unknown way to fit a prompt's length 'mean'\. Did you mean 'mean-pool'"),
    ],
)
def test_lengths_that_cannot_be_fitted(own: int, asked: int, how: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_length(entry(length=own), asked, how)
