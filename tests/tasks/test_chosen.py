"""The tasks that flags name."""

from pathlib import Path

import pytest

from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.table import SUITES
from compt_fast.utils.errors import InputError


def names(*args: object, **kwargs: object) -> list[str]:
    given = {"suite": None, "tasks": None, "include": [], "exclude": [], "task_files": [], **kwargs}
    return [task.name for task in resolve_tasks(**given)]  # type: ignore[arg-type]


def own_task(folder: Path, name: str) -> Path:
    (folder / "rows.csv").write_text("text,label\na,0\nb,1\n")
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\nfields = ["text"]\nlabels = ["no", "yes"]\ndata = "rows.csv"\n')
    return path


def test_default_is_mini() -> None:
    assert names() == list(SUITES["mini"])


def test_a_list_keeps_its_order() -> None:
    assert names(tasks=["rte", "cola"]) == ["rte", "cola"]


def test_include_and_exclude_change_a_suite() -> None:
    assert names(suite="set2", include=["mnli"]) == [*SUITES["set2"], "mnli"]
    assert names(suite="set2", include=["mrpc"]) == list(SUITES["set2"])
    assert names(suite="glue", exclude=["stsb", "cola"]) == [
        "mnli",
        "mrpc",
        "qnli",
        "qqp",
        "rte",
        "sst2",
    ]


def test_own_tasks_take_part(tmp_path: Path) -> None:
    files = [own_task(tmp_path, "mine"), own_task(tmp_path, "other")]
    assert names(task_files=files) == ["mine", "other"]
    assert names(suite="set2", task_files=files) == [*SUITES["set2"], "mine", "other"]
    assert names(tasks=["mine", "rte"], task_files=files) == ["mine", "rte", "other"]
    assert names(tasks=["rte"], exclude=["mine"], task_files=files) == ["rte", "other"]
    resolved = resolve_tasks("glue", None, [], [], files)
    letters = [task.letter for task in resolved]
    assert len(set(letters)) == len(letters)
    assert letters[-2:] == ["O", "P"]


def test_letters_do_not_run_out(tmp_path: Path) -> None:
    files = [own_task(tmp_path, f"mine{k}") for k in range(14)]
    letters = [task.letter for task in resolve_tasks(None, None, [], [], files)]
    assert letters == [*"OPQRSTUVWXYZ", "AA", "AB"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"suite": "gleu"}, "unknown suite 'gleu'.*Did you mean 'glue'"),
        ({"tasks": ["rtte"]}, "unknown task 'rtte'.*Did you mean 'rte'"),
        ({"tasks": ["tickets"]}, "unknown task 'tickets'.*needs its --task-file"),
        ({"include": ["mnly"]}, "unknown task 'mnly'.*Did you mean 'mnli'"),
        ({"exclude": ["rte"]}, "unknown task to exclude 'rte'.*Did you mean 'mini_rte'"),
        ({"suite": "glue", "tasks": ["rte"]}, "a suite and a list of tasks"),
        ({"tasks": ["rte", "cola", "rte"]}, "'rte' is named twice"),
        ({"tasks": ["rte"], "exclude": ["rte"]}, "no task is left"),
    ],
)
def test_bad_flags(flags: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        names(**flags)


def test_two_files_with_one_name(tmp_path: Path) -> None:
    path = own_task(tmp_path, "mine")
    again = path.rename(tmp_path / "first.toml")
    with pytest.raises(InputError, match=r"mine.toml: a task named 'mine' stands in another"):
        names(task_files=[again, own_task(tmp_path, "mine")])
