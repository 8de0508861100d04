"""Rows of users' own tasks: folders, single files, the hub, and rows to be scored alone."""

from pathlib import Path
from typing import Any

import pytest

from compt_fast.tasks.formats import FORMATS
from compt_fast.tasks.loaders import check_read, load_scored, load_task
from compt_fast.tasks.table import TASKS
from compt_fast.tasks.user import load_task_file
from compt_fast.utils.errors import InputError
from tests.helpers.hub_rows import write_rows
from tests.helpers.task_rows import check_rows, local_rows


def own_task(folder: Path, data: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f'name = "mine"\nfields = ["text"]\nlabels = ["no", "yes"]\nlabel_column = "answer"\n{data}\n')
    return path


def own_rows(n: int) -> list[dict[str, Any]]:
    return [{"text": f"text {k}", "answer": ("no", "yes")[k % 2]} for k in range(n)]


@pytest.mark.parametrize("form", FORMATS)
def test_own_task_in_a_folder(form: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows" / f"train.{form}", own_rows(6))
    write_rows(tmp_path / "rows" / f"test.{form}", own_rows(4))
    task = load_task_file(own_task(tmp_path, 'data = "rows"'))
    data = load_task(task)
    check_rows(data)
    assert (len(data.train), len(data.evaluation)) == (6, 4)
    assert load_task(task, data=tmp_path / "elsewhere").train[0] == data.train[0]
    write_rows(tmp_path / "other" / "mine" / "train.csv", own_rows(9)[3:])
    write_rows(tmp_path / "other" / "mine" / "validation.csv", own_rows(9)[5:])
    other = load_task(task, data=tmp_path / "other")
    assert [row.texts[0] for row in other.evaluation] == [f"text {k}" for k in range(5, 9)]
    assert other.train[0].where.startswith(str(tmp_path / "other"))


def test_a_folder_that_no_task_is_read_in(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", own_rows(6))
    mine = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    with pytest.raises(
        InputError, match=r"--data .*: there is no folder of any of the tasks \(mine\), such as .*/mine"
    ):
        check_read([mine], data=tmp_path)
    with pytest.raises(InputError, match="--data-root .*: none of the tasks .mine. is read there"):
        check_read([mine], data_root=tmp_path)
    check_read([mine, TASKS["rte"]], data_root=tmp_path)
    check_read([mine, TASKS["rte"]], data=tmp_path)
    (tmp_path / "mine").mkdir()
    check_read([mine], data=tmp_path)


def test_rows_to_be_scored_alone(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", own_rows(6))
    mine = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    file = write_rows(tmp_path / "new.csv", own_rows(3))
    (data,) = load_scored([mine], file)
    assert len(data.train) == 0 and [row.where for row in data.evaluation] == [f"{file}:{k}" for k in (2, 3, 4)]
    with pytest.raises(InputError, match="new.csv: a file, and the run has the tasks mine, rte; put it where"):
        load_scored([mine, TASKS["rte"]], file)
    write_rows(tmp_path / "new/mini_rte/test.jsonl", local_rows(4, ("sentence1", "sentence2"), (0, 1)))
    none, rte = load_scored([mine, TASKS["mini_rte"]], tmp_path / "new")
    assert len(none.evaluation) == 0 and rte.evaluation.labels.tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match=r"there is no folder of any of the tasks \(mine\)"):
        load_scored([mine], tmp_path / "new")
    (tmp_path / "new/mine").mkdir()
    with pytest.raises(InputError, match=r"no file validation \(or test\)"):
        load_scored([mine], tmp_path / "new")


@pytest.mark.parametrize("kind", ["own", "folder"])
def test_rows_with_empty_cells_can_be_left_out(kind: str, tmp_path: Path) -> None:
    rows = own_rows(20) if kind == "own" else local_rows(20, ("sentence1", "sentence2"), ("0", "1"))
    rows[3][next(iter(rows[3]))] = " "
    rows[7]["answer" if kind == "own" else "label"] = ""
    where: dict[str, Any] = {}
    if kind == "own":
        path = write_rows(tmp_path / "rows.csv", rows)
        task = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    else:
        path, task, where = tmp_path / "rte/train.csv", TASKS["rte"], {"data": tmp_path}
        for split in ("train", "test"):
            write_rows(tmp_path / "rte" / f"{split}.csv", rows)
    with pytest.raises(InputError, match=r"csv:9: no label .*--skip-empty"):
        load_task(task, **where)
    data = load_task(task, skip_empty=True, **where)
    assert len(data.train) + len(data.evaluation) == (18 if kind == "own" else 36)
    assert f"{path}:" in data.train.note + data.evaluation.note


def test_own_task_in_one_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", own_rows(50))
    task = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    data = load_task(task)
    check_rows(data)
    assert (len(data.train), len(data.evaluation)) == (40, 10)
    rows = [*data.train, *data.evaluation]
    assert {row.texts[0] for row in rows} == {f"text {k}" for k in range(50)}
    for row in rows:
        number = int(row.texts[0].split()[1])
        assert row.where == f"{path}:{number + 2}"
        assert row.label == number % 2
    assert [row.where for row in load_task(task).evaluation] == [row.where for row in data.evaluation]


def test_own_task_with_too_little(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", own_rows(1))
    task = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    with pytest.raises(InputError, match="rows.csv: one row; mine needs rows to train on"):
        load_task(task)


def test_own_columns_are_not_guessed(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "label": "no"}, {"sentence1": "b", "label": "yes"}]
    write_rows(tmp_path / "rows.csv", rows)
    task = load_task_file(own_task(tmp_path, 'data = "rows.csv"'))
    with pytest.raises(InputError, match="no column 'text' for the texts of mine"):
        load_task(task)


def test_own_task_of_the_hub(written_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nfields = {hypothesis = "claim", premise = "source"}\n'
        'labels = ["follows", "open"]\nlabel_values = ["entails", "neutral"]\n'
        'dataset = "allenai/scitail"\nconfig = "tsv_format"\neval_split = "test"\n'
    )
    data = load_task(load_task_file(path), data_root=written_root)
    check_rows(data)
    assert data.train[0].texts[0].startswith("A train text of hypothesis")
