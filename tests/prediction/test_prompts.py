"""Prompts read from wherever they lie, or what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import load, store, train
from compt_fast.prediction.prompts import read_all
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.foreign import peft_adapter
from tests.prediction.conftest import Records

SPP, APART = "spp-n3-k4-s0", "pt-k4-s0"
OLD_RUN = Path(__file__).parents[1] / "data/old_run"


@pytest.fixture
def spoilt(runs: Path, tmp_path: Path) -> Path:
    """A copy of a run's prompts to spoil."""
    return shutil.copytree(runs / "prompts" / SPP, tmp_path / "prompts" / SPP)


@pytest.fixture(scope="module")
def stored(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the prompts of tasks trained apart."""
    folder = tmp_path_factory.mktemp("stored") / "store"
    for task in ("toy_a", "toy_c"):
        assert store.main(["add", str(runs / "prompts" / f"{APART}-{task}"), f"--store={folder}"]) == 0
    return folder


def names(*paths: Path, **how: Any) -> list[str]:
    return list(read_all(list(paths), **how))


def test_where_prompts_lie(runs: Path, other: Path, stored: Path) -> None:
    whole = ["toy_a", "toy_b", "toy_c"]
    assert names(runs, run=SPP) == names(runs / "prompts" / SPP) == names(runs, run=APART) == whole
    assert names(runs, run=f"{APART}-toy_b") == ["toy_b"]
    assert names(runs, run=SPP, task="toy_c") == ["toy_c"]
    assert names(other) == ["toy_d"]
    assert names(stored) == ["toy_a", "toy_c"]
    assert names(stored, other) == ["toy_a", "toy_c", "toy_d"]
    (entry,) = stored.glob("toy_c*")
    assert names(entry) == ["toy_c"]


def test_a_store_answers_as_its_runs(runs: Path, stored: Path, written: Records) -> None:
    records = [record for record in written if record["run"] == f"{APART}-toy_a"]
    answers = load(stored).predict([{"sentence": record["columns"]["sentence"]} for record in records], "toy_a")
    assert [answer.text for answer in answers] == [record["prediction"] for record in records]


def test_an_adapter(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    """It says nothing of its task; and it is of the trunk that it names, or of the one that is named."""
    values = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    folder = peft_adapter(tmp_path / "adapter", values, base_model_name_or_path=str(tiny_t5))
    predictor = load(folder, task="toy_a", task_files=toys)
    assert list(predictor.tasks) == ["toy_a"] and predictor.predict({"sentence": "a"}).text
    stranger = peft_adapter(tmp_path / "stranger", values, base_model_name_or_path="google/flan-t5-base")
    (tmp_path / "both").mkdir()
    for name, task in ((folder, "toy_a"), (stranger, "toy_b")):
        assert store.main(["add", str(name), f"--task={task}", f"--store={tmp_path / 'both'}"]) == 0
    with pytest.raises(InputError, match="belong to trunk google/flan-t5-base"):
        load(tmp_path / "both", task_files=toys)
    assert list(load(f"{folder}@toy_a", task_files=toys).tasks) == ["toy_a"]
    built_in = load(folder, task="sst2", model=str(tiny_t5))
    assert built_in.predict({"sentence": "a"}, scores=True).label in ("negative", "positive")
    with pytest.raises(InputError, match="which task was the adapter trained for"):
        load(folder)
    with pytest.raises(InputError, match=r"unknown task 'toy_a'.*needs its task file"):
        load(folder, task="toy_a")
    nameless = peft_adapter(tmp_path / "nameless", values, base_model_name_or_path=None)
    with pytest.raises(InputError, match="base_model_name_or_path"):
        load(nameless, task="sst2")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, f"{SPP} and scp-n3-k4-s0 both have a prompt of the task toy_a; say which run: {SPP}, "),
        ({"run": "ssp-n3-k4-s0"}, f"unknown run 'ssp-n3-k4-s0'. Did you mean '{SPP}'?"),
        ({"run": SPP, "task": "toy_aa"}, "'toy_aa'. Did you mean 'toy_a'?"),
    ],
)
def test_what_is_not_in_a_run_folder(how: dict[str, str], message: str, runs: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_all([runs], **how)
    assert message in str(raised.value)


def test_two_prompts_of_one_task(runs: Path, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"there are more of toy_a in .*{SPP} and .*store/toy_a[^;]*; of toy_c"):
        load(runs / "prompts" / SPP, stored)
    with pytest.raises(InputError, match="is named, and this is no run folder"):
        load(stored, run=SPP)
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / ("a" * 200)):
        with pytest.raises(InputError, match="no prompts; name a run folder"):
            load(place)
    with pytest.raises(InputError, match="no prompts are named"):
        load()


def test_a_store_with_two_prompts_of_a_task_says_which_to_name(stored: Path, tmp_path: Path) -> None:
    place = shutil.copytree(stored, tmp_path / "store")
    for task in ("toy_a", "toy_c"):
        (entry,) = place.glob(f"{task}*")
        longer = shutil.copytree(entry, place / f"{entry.name}-longer")
        manifest = json.loads((longer / "manifest.json").read_text())
        (longer / "manifest.json").write_text(json.dumps(manifest | {"name": longer.name}))
    first, second, third, fourth = sorted(place.iterdir())
    for path in (place, Path(f"{place}@toy_a")):
        with pytest.raises(InputError) as raised:
            read_all([path])
        said = str(raised.value)
        assert f"more of toy_a in {first} and {second}" in said and said.endswith(
            f"name for each task the one to take, as {first}@toy_a"
        )
        assert (f"; of toy_c in {third} and {fourth}: name" in said) == (path == place)
    assert names(Path(f"{first}@toy_a"), fourth) == ["toy_a", "toy_c"]
    with pytest.raises(InputError, match=r"Known: toy_a, toy_c\."):
        read_all([Path(f"{place}@toy_d")])


def test_a_path_names_its_own_run_or_task(runs: Path, stored: Path, other: Path, tmp_path: Path) -> None:
    """Beside others that need another name, or none."""
    one = f"{APART}-toy_b"
    assert names(Path(f"{runs}@{one}"), stored) == ["toy_b", "toy_a", "toy_c"]
    assert names(Path(f"{runs}@{one}"), Path(f"{stored}@toy_c"), other) == ["toy_b", "toy_c", "toy_d"]
    assert names(Path(f"{runs}@{one}"), runs, run=f"{APART}-toy_a") == ["toy_b", "toy_a"]
    copied = shutil.copytree(other, tmp_path / "name@home")
    assert names(copied) == ["toy_d"]
    for path in ("nowhere@toy_a", f"{other}@toy_d/nothing", "@toy_a"):
        with pytest.raises(InputError, match=rf"{path}: no prompts; name a run folder"):
            names(Path(path))
    with pytest.raises(InputError, match=r"unknown run 'nothing'"):
        names(Path(f"{runs}@nothing"))
    with pytest.raises(InputError, match=r"unknown task of .*store 'nothing'"):
        names(Path(f"{stored}@nothing"))
    with pytest.raises(InputError, match=rf"no run folder .* name the run there: FOLDER@{SPP}"):
        names(stored, runs, run=SPP)


def test_prompts_that_no_single_trunk_reads(runs: Path, other: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(other, tmp_path / "run")
    (manifest,) = folder.glob("prompts/*/manifest.json")
    for key, change, said in (
        ("trunk", {"sha256": "0" * 64}, "belongs to trunk"),
        ("text", {"prompt_position": "append"}, "its place of the prompt"),
    ):
        content = json.loads((other / manifest.relative_to(folder)).read_text())
        content[key] |= change
        manifest.write_text(json.dumps(content))
        with pytest.raises(InputError) as raised:
            load(runs / "prompts" / SPP, folder)
        assert f"{manifest.parent}: {said}" in str(raised.value) and SPP in str(raised.value)


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return edit


def flipped(folder: Path) -> None:
    path = folder / "prompts.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edited(lambda m: m.update(format=3)), "manifest.json: stored prompts of format 3, not 2"),
        (edited(lambda m: m.update(format="2")), "manifest.json: not a manifest of stored prompts: format"),
        (edited(lambda m: m["trunk"].update(sha256="0" * 64)), "whose weights differ"),
        (edited(lambda m: m["definitions"].clear()), "unknown task 'toy_a'"),
        (edited(lambda m: m["definitions"]["toy_a"].update(labels=["bad"])), "definitions: toy_a: labels: one class"),
        (edited(lambda m: m["tensors"].clear()), "prompts.safetensors: holds "),
        (flipped, "prompts.safetensors: its values are not those its manifest was written for"),
        (lambda f: (f / "prompts.safetensors").write_bytes(b"x" * 99), "prompts.safetensors: cannot be read"),
        (lambda f: (f / "prompts.safetensors").unlink(), "prompts.safetensors"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: not well-formed json"),
    ],
)
def test_damaged_prompts(spoil: Callable[[Path], None], message: str, spoilt: Path) -> None:
    assert set(load(spoilt).tasks) == {"toy_a", "toy_b", "toy_c"}
    spoil(spoilt)
    with pytest.raises(InputError) as raised:
        load(spoilt)
    assert message in str(raised.value)


def test_task_files_say_what_prompts_do_not(spoilt: Path, toys: list[Path]) -> None:
    edited(lambda m: m["definitions"].clear())(spoilt)
    assert load(spoilt, task_files=toys).predict({"task": "toy_a", "sentence": "a"}).task == "toy_a"


def test_prompts_of_format_1() -> None:
    """They answer; but early ones that do not name their tasks cannot."""
    predictor = load(OLD_RUN, run="spp-n2-k8-s0-gatesinput")
    assert predictor.predict({"sentence1": "a man sleeps", "sentence2": "a man sleeps"}, "mini_rte").text
    assert all(one.text.max_source_length == 256 for one in predictor.prompts.values())


def test_early_prompts_that_do_not_name_their_tasks(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD_RUN, tmp_path / "run")
    place = folder / "prompts/spp-n2-k8-s0-gatesinput"
    edited(lambda m: m.update(tasks=None))(place)
    for paths in ({"run": place.name}, {"run": "pt-k8"}):
        with pytest.raises(InputError, match="none are named|unknown run"):
            load(folder, **paths)


def test_runs_of_several_seeds(line: jobs.Line, tmp_path: Path) -> None:
    """Which prompt of a task is meant has to be said."""
    assert train.main(line(tmp_path / "run", method="pt", seeds="0,1", steps=1)) == 0
    assert names(tmp_path / "run", run="pt-k4-s1") == ["toy_a", "toy_b"]
    with pytest.raises(InputError, match="say which run"):
        names(tmp_path / "run")
