import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compt_fast.tasks.table import TASKS, Task
from compt_fast.tasks.user import defined_task, definition, load_task_file
from compt_fast.utils.errors import InputError

TOML = """
name = "asked"
fields = ["question", "passage"]
labels = ["no", "yes"]
metric = ["f1", "accuracy"]
data = "rows.csv"
"""
YAML = """
name: asked
fields: [question, passage]
labels: ["no", "yes"]
metric: [f1, accuracy]
data: rows.csv
"""


def write(folder: Path, text: str, name: str = "task.toml") -> Path:
    (folder / "rows.csv").write_text("question,passage,label\na,b,0\n")
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "name"), [(TOML, "task.toml"), (YAML, "task.yaml"), (YAML, "task.yml")])
def test_both_languages(text: str, name: str, tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, text, name))
    assert task == Task(
        name="asked",
        prefix="asked",
        fields=(("question", "question"), ("passage", "passage")),
        labels=("no", "yes"),
        metrics=("f1", "accuracy"),
        origin="file",
        path=tmp_path / "rows.csv",
    )


def test_everything_said(tmp_path: Path) -> None:
    text = """
name = "mine"
prefix = "judge"
fields = {q = "sentence1", p = "sentence2"}
labels = ["low", "mid", "high"]
score = {low = -1, high = 1, step = 0.5}
thresholds = [-0.2, 0.3]
label_column = "rating"
dataset = "org/ratings"
config = "plain"
train_split = "training"
eval_split = "dev"
"""
    assert load_task_file(write(tmp_path, text)) == Task(
        name="mine",
        prefix="judge",
        fields=(("q", "sentence1"), ("p", "sentence2")),
        labels=("low", "mid", "high"),
        metrics=("accuracy",),
        dataset="org/ratings",
        config="plain",
        train_split="training",
        eval_split="dev",
        label_column="rating",
        thresholds=(-0.2, 0.3),
        score_range=(-1.0, 1.0),
        step=0.5,
    )


def test_scores(tmp_path: Path) -> None:
    base = 'name = "mine"\nfields = ["text"]\ndata = "rows.csv"\n'
    task = load_task_file(write(tmp_path, base + "score = {}"))
    assert (task.labels, task.score_range, task.step) == ((), (0.0, 5.0), 0.2)
    assert task.metrics == ("spearman", "pearson")
    task = load_task_file(write(tmp_path, base + "score = {low = 1, step = 1}\nmetric = 'pearson'"))
    assert (task.score_range, task.step, task.metrics) == ((1.0, 5.0), 1.0, ("pearson",))


def test_groups(tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, TOML.replace('"f1"', '"em"') + 'group = "question"'))
    assert (task.group, task.metrics) == ("question", ("em", "accuracy"))


def replaced(old: str, new: str) -> str:
    assert old in TOML
    return TOML.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (replaced('name = "asked"', ""), "name: missing"),
        (replaced('"asked"', '""'), "name: '' must be a text that is not empty"),
        (replaced('"asked"', "7"), "name: 7 must be a text"),
        (replaced('"asked"', '"a/b"'), "name: 'a/b' is no name of a task: letters"),
        (replaced('"asked"', '"rte"'), "name: 'rte' is a built-in task"),
        (replaced("fields", "field"), "unknown key 'field'. Did you mean 'fields'"),
        (replaced('fields = ["question", "passage"]', ""), "fields: missing"),
        (replaced('["question", "passage"]', "[]"), "fields: must be a list of texts"),
        (replaced('["question", "passage"]', '"question"'), "fields: must be a list of texts"),
        (replaced('["question", "passage"]', "{q = 1}"), "fields: 1 must be a text"),
        (replaced('"passage"]', '"question"]'), "fields: 'question' stands there twice"),
        (replaced('labels = ["no", "yes"]', ""), "labels: missing; name the classes"),
        (replaced('["no", "yes"]', '["no"]'), "labels: one class leaves nothing to predict"),
        (replaced('["no", "yes"]', '["no", "no"]'), "labels: 'no' stands there twice"),
        (replaced('["no", "yes"]', "[false, true]"), "labels: False is a truth value .YAML"),
        (TOML + "score = {high = 4}", "labels: with labels, score and thresholds go together"),
        (TOML + "thresholds = [1]", "labels: with labels, score and thresholds go together"),
        (TOML + "score = {}\nthresholds = [2, 3]", "thresholds: 2 labels need 1, not 2"),
        (TOML + "score = {}\nthresholds = [3, 2]", "thresholds: must rise"),
        (TOML + "score = {}\nthresholds = 2", "thresholds: must be a list of numbers"),
        (TOML + "score = {}\nthresholds = ['2']", "thresholds: '2' must be a number"),
        (TOML + "score = 5\nthresholds = [2]", "score: must be a table of low, high and step"),
        (TOML + "score = {hi = 4}\nthresholds = [2]", "score: must be a table of low, high"),
        (TOML + "score = {high = nan}\nthresholds = [2]", "score: nan must be a number"),
        (TOML + "score = {step = 1e-300}\nthresholds = [2]", "in steps of 1e-300 makes more than 10,000 numbers"),
        (TOML + "score = {step = 0.0000005}\nthresholds = [2]", "makes more than 10,000 numbers"),
        (TOML + "score = {low = -1e308, high = 1e308}\nthresholds = [2]", "makes more than 10,000 numbers"),
        (replaced('metric = ["f1", "accuracy"]', 'prefix = "a\\u0000b"'), "prefix: .* printable characters"),
        (TOML + "score = {step = 0}\nthresholds = [2]", "no whole number of steps of 0"),
        (TOML + "score = {step = 0.3}\nthresholds = [2]", "no whole number of steps of 0.3"),
        (TOML + "score = {high = -1}\nthresholds = [2]", "from 0 to -1 there is no whole number"),
        (replaced('"f1",', '"f2",'), "unknown metric of classes 'f2'. Did you mean 'f1'"),
        (replaced('"f1",', '"pearson",'), "unknown metric of classes 'pearson'"),
        (replaced('"f1",', '"em",'), "metric: 'em' counts groups that are right in every row; name their column"),
        (TOML + "group = 3", "group: 3 must be a text"),
        (replaced('labels = ["no", "yes"]', "score = {}"), "unknown metric of a score 'f1'"),
        (TOML + 'label_values = ["n"]', "label_values: 2 labels need as many values, not 1"),
        (replaced('data = "rows.csv"', ""), "data: give either data"),
        (TOML + 'dataset = "a/b"', "data: give either data"),
        (replaced('"rows.csv"', '"gone.csv"'), "data: .*gone.csv does not exist"),
        (TOML + 'config = "x"', "config: goes with dataset, not with data"),
        (TOML + 'name = "again"', "not well-formed toml"),
        ("name = ", "not well-formed toml"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_task_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML + "name: again\n", "the key 'name' stands there twice"),
        (YAML.replace('["no", "yes"]', "[no, yes]"), "labels: False is a truth value"),
        ("- a\n- b\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("name: [", "not well-formed yaml"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_task_file(write(tmp_path, text, "task.yaml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.toml: cannot be read \(No such file"):
        load_task_file(tmp_path / "gone.toml")
    with pytest.raises(InputError, match="must end in .toml, .yaml or .yml"):
        load_task_file(tmp_path / "task.json")
    path = tmp_path / "task.toml"
    path.write_bytes('name = "café"'.encode("latin-1"))
    with pytest.raises(InputError, match="task.toml:1: not UTF-8"):
        load_task_file(path)


def test_the_example_in_the_documentation_works(tmp_path: Path) -> None:
    from compt_fast.tasks import user as userfile

    (tmp_path / "asked").mkdir()
    example = str(userfile.__doc__).split("\n\n")[1]
    task: Any = load_task_file(write(tmp_path, example))
    assert (task.name, task.labels, task.path) == ("asked", ("no", "yes"), tmp_path / "asked")


@pytest.mark.parametrize("task", [*TASKS.values()], ids=[*TASKS])
def test_a_definition_is_the_task_again(task: Task) -> None:
    assert defined_task(json.loads(json.dumps(definition(task))), "here") == task


def test_a_definition_of_an_own_task_leaves_out_where_its_rows_are(tmp_path: Path) -> None:
    base = 'name = "mine"\nfields = {q = "text"}\nscore = {low = -1, high = 1, step = 0.5}\n'
    own = replace(load_task_file(write(tmp_path, base + 'data = "rows.csv"\n')), letter="Q")
    assert defined_task(definition(own), "here") == replace(own, path=None)
    hub = load_task_file(write(tmp_path, base + 'dataset = "org/ratings"\nconfig = "plain"\n'))
    assert defined_task(definition(hub), "here") == hub


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../a"}, "here: name: '../a' is no name of a task"),
        ({"name": 3}, "here: name: 3 must be a text"),
        ({"labels": ["a"]}, "here: labels: one class"),
        ({"fields": {"a": 3}}, "here: fields: 3 must be a text"),
        ({"metric": ["f2"]}, "here: unknown metric of classes 'f2'"),
        ({"data": "rows.csv"}, "here: unknown key 'data'"),
        ({"reading": "wcs"}, "here: unknown reading 'wcs'. Did you mean 'wsc'"),
    ],
)
def test_bad_definitions(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        defined_task(definition(TASKS["rte"]) | changes, "here")
