"""Tasks that are added and removed: whole sets at a time, only of the same trunk, only from below the root."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from compt_fast.prediction.predictor import Predictor, load
from compt_fast.serving.served import Served, UnknownTask
from compt_fast.utils.errors import InputError
from tests.helpers.serving import make_prompts, mini_trunk, mixed_rows

SST2 = {"sentence1": "the film was a joy"}


@pytest.fixture
def root(artifacts: Path, tmp_path: Path) -> Path:
    """Copies of the artifacts, for tests that harm them."""
    return Path(shutil.copytree(artifacts, tmp_path / "root"))


def test_adding_and_removing_put_another_set_in_the_place_of_the_whole(offline: Predictor, root: Path) -> None:
    served = Served(offline, root)
    first = served.predictor
    served.remove("mini_rte")
    second = served.predictor
    assert [served.add("mini_rte", path)[1] for path in ("mini", "other")] == [True, False]
    assert "mini_rte" in first.tasks and "mini_rte" not in second.tasks
    other = load(root / "other")
    row = next(row for row in mixed_rows(1) if row["task"] == "mini_rte")
    before = offline.predict(row, scores=True)
    assert served.predictor.predict(row, scores=True) == other.predict(row, scores=True) != before
    assert first.predict(row, scores=True) == before
    with pytest.raises(UnknownTask, match="unknown task 'mini_rt'. Did you mean 'mini_rte'"):
        served.remove("mini_rt")


def test_the_last_task_may_go(offline: Predictor) -> None:
    served = Served(offline)
    for name in offline.tasks:
        served.remove(name)
    assert not served.predictor.tasks
    with pytest.raises(InputError, match="unknown task 'mini_sst2'"):
        served.predictor.predict(SST2, "mini_sst2")


def test_a_reader_sees_one_set_or_the_other_while_two_writers_change_it(offline: Predictor, root: Path) -> None:
    served, sizes, over = Served(offline, root), set(), threading.Event()

    def change(name: str) -> None:
        for _ in range(10):
            served.remove(name)
            served.add(name, "mini")

    def look() -> None:
        while not over.is_set():
            found = served.predictor
            assert found.prompts.keys() == found.tasks.keys()
            sizes.add(len(found.prompts))

    looking = threading.Thread(target=look)
    changing = [threading.Thread(target=change, args=(name,)) for name in ("mini_rte", "mini_sst2")]
    for thread in (looking, *changing):
        thread.start()
    for thread in changing:
        thread.join()
    over.set()
    looking.join()
    assert sizes <= {6, 7, 8} and len(served.predictor.prompts) == 8


@pytest.mark.parametrize("harm", ["removed", "cut", "overwritten"])
def test_what_happens_to_files_later_changes_no_answer(root: Path, harm: str) -> None:
    served = Served(load(root / "mini"), root)
    served.add("mini_sst2", "other")
    rows = mixed_rows(2)
    expected = served.predictor.predict(rows)
    for file in root.glob("*/prompts.safetensors"):
        if harm == "removed":
            file.unlink()
        elif harm == "cut":
            os.truncate(file, 0)
        else:
            with open(file, "r+b") as opened:
                opened.write(b"\xff" * file.stat().st_size)
    assert served.predictor.predict(rows) == expected
    with pytest.raises(InputError):
        served.add("mini_sst2", "other")
    assert served.predictor.predict(rows) == expected


def test_nothing_outside_the_root_is_read(offline: Predictor, artifacts: Path, root: Path, tmp_path: Path) -> None:
    served = Served(offline, root)
    outside = tmp_path / "outside"
    shutil.copytree(artifacts / "other", outside)
    (root / "link").symlink_to(outside)
    (root / "inner").mkdir()
    (root / "behind").mkdir()
    (root / "behind" / "prompts").symlink_to(root / "inner")
    (root / "inner" / "manifest.json").symlink_to(outside / "manifest.json")
    shutil.copy(outside / "prompts.safetensors", root / "inner")
    for path in ("../outside", str(outside), "link", "inner", "behind", "mini/../../outside", "/etc", "..", "."):
        with pytest.raises(InputError, match="leads out of the folder of artifacts"):
            served.add("mini_sst2", path)
    (root / "within").symlink_to(root / "other")
    assert not served.add("mini_sst2", "within")[1]
    (root / "circle").mkdir()
    (root / "circle" / "again").symlink_to(root / "circle")
    with pytest.raises(InputError, match="no such file"):
        served.add("mini_sst2", "circle")
    for path in ("nothing", "mini/manifest.json", "a\0b", "a" * 5000):
        with pytest.raises(InputError, match="no such folder|NUL|too long"):
            served.add("mini_sst2", path)
    (root / "empty").mkdir()
    with pytest.raises(InputError, match="no prompts; name a run folder"):
        served.add("mini_sst2", "empty")


def test_without_a_root_nothing_is_added(offline: Predictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--artifacts-root"):
        Served(offline).add("mini_sst2", "mini")
    with pytest.raises(InputError, match="no such folder"):
        Served(offline, tmp_path / "nothing")


def test_prompts_of_no_such_task_or_another_trunk_are_refused(
    offline: Predictor, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(offline, root)
    before = served.predictor
    with pytest.raises(InputError, match="unknown task of .* 'mini_cola'"):
        served.add("mini_cola", "other")
    with monkeypatch.context() as patch:
        patch.setattr(type(mini_trunk()), "fingerprint", lambda own: "0" * 64)
        make_prompts(root / "stranger")
    with pytest.raises(InputError, match="belongs to trunk mini .*whose weights differ"):
        served.add("mini_sst2", "stranger")
    behind = replace(offline.prompts["mini_sst2"].text, prompt_position="append")
    one = replace(offline.prompts["mini_sst2"], text=behind)
    with monkeypatch.context() as patch:
        patch.setattr("compt_fast.serving.served.read_all", lambda *given: {"mini_sst2": one})
        with pytest.raises(InputError, match="its prompt stands at the place 'append'"):
            served.add("mini_sst2", "mini")
    assert served.predictor is before


def test_prompts_trained_in_another_precision_are_compared_in_that(
    offline: Predictor, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(offline, root)
    known = served._belonging._hash("bf16")
    assert known != served._belonging._hash("fp32") and len(known) == 64
    one = offline.prompts["mini_sst2"]
    for sha, fits in ((known, True), ("0" * 64, False)):
        trained = replace(one, trunk=replace(one.trunk, sha256=sha, dtype="bf16"))
        monkeypatch.setattr("compt_fast.serving.served.read_all", lambda *given, own=trained: {"mini_sst2": own})
        if fits:
            assert served.add("mini_sst2", "mini")[0] is served.predictor.prompts["mini_sst2"]
        else:
            with pytest.raises(InputError, match="whose weights differ"):
                served.add("mini_sst2", "mini")
