import builtins
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from compt_fast.tasks.formats import FORMATS
from compt_fast.tasks.loaders import MINI_ROWS, load_task
from compt_fast.tasks.table import TASKS
from compt_fast.utils.errors import InputError
from tests.helpers.hub_rows import DATA_SETS, make_rows, write_hub, write_rows
from tests.helpers.task_rows import check_rows, local_rows

HUB_TASKS = [name for name, task in TASKS.items() if task.origin == "hub"]
MINI_TASKS = [name for name, task in TASKS.items() if task.origin == "mini"]


@pytest.fixture(scope="module")
def roots(written_root: Path, hub_root: Path | None) -> list[Path]:
    """Rows that the tests write, and the real ones where they are."""
    return [written_root, *([hub_root] if hub_root else [])]


@pytest.mark.parametrize("name", HUB_TASKS)
def test_every_data_set_in_the_hubs_layout(name: str, roots: list[Path]) -> None:
    for root in (root for root in roots if (root / TASKS[name].dataset).is_dir()):
        data = load_task(TASKS[name], data_root=root)
        check_rows(data)
        place, row = data.evaluation[0].where.rsplit(":", 1)
        assert Path(place).is_relative_to(root) and row == "1"
        assert Path(place).name.startswith(f"{TASKS[name].eval_split}-")


@pytest.mark.parametrize("name", [name for name in DATA_SETS if not TASKS[name].reading])
def test_texts_and_labels_are_the_columns_own(name: str, written_root: Path) -> None:
    rows = make_rows(name, 60, "train")
    task = TASKS[name]
    data = load_task(task, data_root=written_root)
    for k in (0, 1, 59):
        assert data.train[k].texts == tuple(rows[k][column] for column, _ in task.fields)
        given = rows[k][task.label_column]
        expected = task.label_values.index(given) if task.label_values else given
        assert data.train[k].label == pytest.approx(expected, abs=1e-6)


def test_stsb2_bins_stsb(roots: list[Path]) -> None:
    for root in roots:
        scores = load_task(TASKS["stsb"], data_root=root).train.labels
        bins = load_task(TASKS["stsb2"], data_root=root).train.labels
        assert bins.tolist() == [0 if s < 2 else 1 if s < 4 else 2 for s in scores.tolist()]


def test_label_names_agree_with_real_rows(hub_root: Path | None, written_root: Path) -> None:
    """SciTail writes its labels as words: entails is entailment."""
    for root in (hub_root or written_root, written_root):
        path = root / "allenai/scitail/tsv_format/train-00000-of-00001.parquet"
        raw = parquet.read_table(path).column("label").to_pylist()
        data = load_task(TASKS["scitail"], data_root=root)
        words = [TASKS["scitail"].labels[k] for k in data.train.labels]
        assert words == ["entailment" if word == "entails" else "neutral" for word in raw]


@pytest.mark.parametrize("name", ["rte", "stsb", "scitail"])
def test_the_datasets_library_gives_the_same_rows(
    name: str, roots: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of the hub, through `datasets`, which reads a local folder as it reads the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for root in roots:
        local = load_task(TASKS[name], data_root=root)
        hub = load_task(replace(TASKS[name], dataset=str(root / TASKS[name].dataset)))
        check_rows(hub)
        for ours, theirs in ((local.train, hub.train), (local.evaluation, hub.evaluation)):
            assert ours.labels.tolist() == theirs.labels.tolist()
            assert [row.texts for row in ours] == [row.texts for row in theirs]
        assert hub.train[2].where == f"{root / TASKS[name].dataset} {TASKS[name].config} train:3"


def test_the_hub_out_of_reach() -> None:
    """Not a published data set, so that no copy of it can be in a cache."""
    task = replace(TASKS["rte"], dataset="nobody/nothing")
    with pytest.raises(InputError, match="rte: cannot read nobody/nothing rte train .*--data-root"):
        load_task(task)


def test_without_the_datasets_library(monkeypatch: pytest.MonkeyPatch, written_root: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    check_rows(load_task(TASKS["rte"], data_root=written_root))
    check_rows(load_task(TASKS["mini_rte"]))
    with pytest.raises(InputError, match="needs `datasets` .pip install datasets.*--data-root"):
        load_task(TASKS["rte"])


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch, written_root: Path) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    check_rows(load_task(TASKS["mini_rte"]))
    with pytest.raises(InputError, match="parquet: reading Parquet needs pyarrow"):
        load_task(TASKS["rte"], data_root=written_root)


def test_layouts_of_the_data_root(tmp_path: Path) -> None:
    """A data set of one configuration may stand in `data/` or right in its folder."""
    rows = make_rows("multinli", 9, "train")
    for folder in ("data", "."):
        root = tmp_path / f"root-{len(folder)}"
        for split in ("train", "validation_matched"):
            write_rows(root / "nyu-mll/multi_nli" / folder / f"{split}.jsonl", rows)
        check_rows(load_task(TASKS["multinli"], data_root=root))


def test_data_root_without_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nyu-mll/glue: no such folder; rte is read from"):
        load_task(TASKS["rte"], data_root=tmp_path)
    write_rows(tmp_path / "nyu-mll/glue/rte/train.jsonl", make_rows("rte", 4, "train"))
    with pytest.raises(InputError, match=r"glue/rte: no validation-\*-of-\*.parquet .* for rte"):
        load_task(TASKS["rte"], data_root=tmp_path)


Spoil = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("rte", lambda row: row.pop("sentence2"), "no column 'sentence2' for the texts of rte"),
        ("rte", lambda row: row.update(label=3), "train-00000-of-00001.parquet:1: unknown label"),
        ("rte", lambda row: row.update(label=-1), "parquet:1: label -1 of rte: the row is unla"),
        ("rte", lambda row: row.update(sentence1=" "), "parquet: every row has an empty text or label; rte ne"),
        ("rte", lambda row: row.update(sentence1=7), "column 'sentence1' holds the number 7"),
        ("stsb", lambda row: row.update(label=float("nan")), "parquet:1: score nan of stsb"),
        ("scitail", lambda row: row.update(label="entail"), "parquet:1: .*Did you mean 'entails'"),
    ],
)
def test_bad_rows_of_the_hub(name: str, spoil: Spoil, message: str, tmp_path: Path) -> None:
    write_hub(tmp_path)
    rows = make_rows(name, 6, "train")
    for row in rows:
        spoil(row)
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / DATA_SETS[name][0] / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match=message):
        load_task(TASKS[name], data_root=tmp_path).train[0]


@pytest.mark.parametrize("form", ["parquet", "shards", "jsonl"])
def test_rows_of_the_hub_without_a_text_are_left_out(form: str, tmp_path: Path) -> None:
    """QQP has some, and no user can mend them."""
    folder = write_hub(tmp_path) / "nyu-mll/glue/qqp"
    rows = make_rows("qqp", 8, "train")
    for k, column, text in ((2, "question1", ""), (5, "question2", " \n\u00a0"), (6, "question2", None)):
        rows[k][column] = text
    rows[2]["label"] = -1  # of a row that is left out, nothing is read
    (folder / "train-00000-of-00001.parquet").unlink()
    if form == "shards":
        schema = pa.Table.from_pylist(rows).schema
        for n in range(2):
            table = pa.Table.from_pylist(rows[4 * n : 4 * n + 4], schema=schema)
            parquet.write_table(table, folder / f"train-0000{n}-of-00002.parquet")
        places = [f"train-0000{n}-of-00002.parquet:{k + 1}" for n in range(2) for k in range(4)]
    else:
        write_rows(folder / f"train.{form}", rows)
        places = [f"train.{form}:{k + 1}" for k in range(8)]
    data = load_task(TASKS["qqp"], data_root=tmp_path)
    kept = (0, 1, 3, 4, 7)
    assert [row.texts for row in data.train] == [(rows[k]["question1"], rows[k]["question2"]) for k in kept]
    assert data.train.labels.tolist() == [rows[k]["label"] for k in kept]
    assert [row.where for row in data.train] == [str(folder / places[k]) for k in kept]
    first = folder / places[2]
    assert data.train.note == f"qqp: left out for an empty text or label: 3 of 8 rows, the first {first}"
    assert data.evaluation.note == "" and len(data.evaluation) == 40


def test_rows_without_a_text_through_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write_hub(tmp_path) / "nyu-mll/glue/qqp"
    rows = make_rows("qqp", 60, "train")
    rows[3]["question2"] = ""
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    train = load_task(replace(TASKS["qqp"], dataset=str(folder.parent))).train
    assert len(train) == 59 and train[3].texts[1] == rows[4]["question2"]
    assert train[3].where.endswith("qqp train:5")
    assert "1 of 60 rows, the first" in train.note


def test_truncated_parquet_of_the_hub(tmp_path: Path) -> None:
    path = write_hub(tmp_path) / "nyu-mll/glue/rte/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"rte/train-00000-of-00001.parquet: not a whole Parquet"):
        load_task(TASKS["rte"], data_root=tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", [*HUB_TASKS])
def test_local_files(form: str, name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    labels = (0.0, 2.5, 5.0) if task.is_score or task.thresholds else task.labels
    columns = tuple(f"sentence{k + 1}" for k in range(len(task.fields)))
    for split, n in (("train", 12), ("test", 6)):
        rows = local_rows(n, columns, labels)
        grouped = [row | ({task.group: f"q{k // 2}"} if task.group else {}) for k, row in enumerate(rows)]
        write_rows(tmp_path / name / f"{split}.{form}", grouped)
    data = load_task(task, data=tmp_path)
    check_rows(data)
    assert data.task is task
    assert data.train[3].texts == tuple(f"{column} 3" for column in columns)
    expected = labels if task.is_score else range(len(task.labels))
    assert data.train.labels[: len(expected)].tolist() == list(expected)
    if task.group:
        assert data.evaluation.groups is not None and data.evaluation.groups.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("columns", [("sentence1", "sentence2"), ("premise", "hypothesis")])
def test_names_of_local_columns(columns: tuple[str, ...], tmp_path: Path) -> None:
    rows = local_rows(6, columns, (0, 1, 2))
    for split in ("train", "validation"):
        write_rows(tmp_path / "multinli" / f"{split}.jsonl", rows)
    assert load_task(TASKS["multinli"], data=tmp_path).train[0].texts == (
        f"{columns[0]} 0",
        f"{columns[1]} 0",
    )


def test_the_tasks_own_split_is_scored_first(tmp_path: Path) -> None:
    for name in ("rte", "paws", "mnli"):
        for split, n in (("train", 6), ("validation", 3), ("test", 9)):
            rows = local_rows(n, ("sentence1", "sentence2"), tuple(range(len(TASKS[name].labels))))
            write_rows(tmp_path / name / f"{split}.csv", rows)
    sizes = {name: len(load_task(TASKS[name], data=tmp_path).evaluation) for name in ("rte", "paws", "mnli")}
    assert sizes == {"rte": 3, "paws": 9, "mnli": 3}


def test_bad_local_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rte: no such folder; it must hold the train and valid"):
        load_task(TASKS["rte"], data=tmp_path)
    rows = local_rows(6, ("sentence1", "sentence2"), (0, 1))
    write_rows(tmp_path / "rte" / "train.csv", rows)
    with pytest.raises(InputError, match=r"no file validation \(or test\).{jsonl,csv,tsv,parquet}"):
        load_task(TASKS["rte"], data=tmp_path)
    (tmp_path / "rte" / "test.json").write_text("[]")
    with pytest.raises(InputError, match="for rte; test.json is not read: one JSON object a line makes it test.jsonl"):
        load_task(TASKS["rte"], data=tmp_path)
    write_rows(tmp_path / "rte" / "test.csv", [{**rows[0], "sentence2": ""}])
    with pytest.raises(InputError, match=r"test.csv:2: column 'sentence2' is empty"):
        load_task(TASKS["rte"], data=tmp_path)
    write_rows(tmp_path / "rte" / "test.csv", [{"sentence1": "a", "label": 0}])
    with pytest.raises(InputError, match="no column 'sentence2' for the texts of rte; there are"):
        load_task(TASKS["rte"], data=tmp_path)


def test_two_places_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data-root and --data both"):
        load_task(TASKS["rte"], data=tmp_path, data_root=tmp_path)
    with pytest.raises(InputError, match=r"mini_rte has embedded rows and none in .*--suite or"):
        load_task(TASKS["mini_rte"], data=tmp_path)


@pytest.mark.parametrize("name", MINI_TASKS)
def test_embedded_tasks(name: str) -> None:
    data = load_task(TASKS[name])
    check_rows(data)
    assert (len(data.train), len(data.evaluation)) == tuple(MINI_ROWS.values())
    assert data.train[4].where == f"{name} train:5"
    assert not {row.texts for row in data.train} & {row.texts for row in data.evaluation}
