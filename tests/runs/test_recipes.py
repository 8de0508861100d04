"""Recipes: every experiment of both papers is there and means runs, in full and in small; several jobs a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compt_fast import train
from compt_fast.config.baselines import METHODS
from compt_fast.config.flags import parse, read_file
from compt_fast.config.job import JobSettings
from compt_fast.runs.recipes import embedded, read_jobs, settings_of
from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.table import SUITES, TASKS
from compt_fast.training.plan import Run, plan_runs
from compt_fast.utils.errors import InputError
from tests.helpers.jobs import error_of, results

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "recipes").glob("*.toml"))
T5_BASE, MINI = 768, 192  # d_model

# Every table and figure of the papers that is an experiment of theirs.
COMPT = [f"compt-table-{k}" for k in range(1, 10)] + [f"compt-figure-{k}" for k in range(2, 7)]
CROSSPT = ["crosspt-table-2", "crosspt-table-3", "crosspt-table-a1", "crosspt-table-a2", "crosspt-table-a3"]
CROSSPT += [f"crosspt-figure-{k}" for k in range(2, 12)]
DEPT = ["dept-table-1", "dept-table-2", "dept-few-shot"]
OURS = {"methods-on-mini"}  # no paper's: on the embedded suite, whether with --mini or without
NINE = {"p", "pi", "sl", "slp", "sln", "slpn", "sil", "sip", "silp"}


def methods_of(path: Path) -> set[str]:
    """The methods that a recipe names."""
    content = read_file(path)
    return methods_in([content, *content.get("jobs", {}).values()])


def methods_in(tables: list[dict[str, Any]]) -> set[str]:
    """The methods that tables of flags name."""
    named = [table["method"] for table in tables if "method" in table]
    return {method for methods in named for method in (methods if isinstance(methods, list) else [methods])}


def planned(job: JobSettings, d_model: int) -> list[Run]:
    tasks = resolve_tasks(job.suite, job.tasks, job.include, job.exclude, [])
    return plan_runs(job, tasks=[task.name for task in tasks], d_model=d_model)


def runs_of(name: str, *, mini: bool = True) -> dict[str, list[Run]]:
    jobs = settings_of({}, str(REPOSITORY / "recipes" / f"{name}.toml"), mini)
    return {name: planned(job, MINI if mini else T5_BASE) for name, job in jobs.items()}


def test_every_experiment_of_both_papers_has_a_recipe_and_the_readme_names_the_rest() -> None:
    there = [path.stem for path in RECIPES]
    assert set(COMPT + CROSSPT + DEPT) <= set(there)
    readme = (REPOSITORY / "recipes" / "README.md").read_text()
    for stem in there:
        paper, _, rest = stem.partition("-")
        assert stem in readme or re.search(rf"`{paper}-[^|]*`-{rest.split('-', 1)[1]}`", readme), stem
    for rest in ("ComPT, figure 1", "CrossPT, figure 1", "CrossPT, table 1"):
        assert f"| {rest} |" in readme


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_method_of_a_recipe_is_there(path: Path) -> None:
    assert methods_of(path) <= set(METHODS)


@pytest.mark.parametrize("mini", [False, True], ids=["full", "mini"])
@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_plans(path: Path, mini: bool) -> None:
    jobs = settings_of({}, str(path), mini)
    mini = mini or path.stem in OURS
    for name, job in jobs.items():
        tasks = resolve_tasks(job.suite, job.tasks, job.include, job.exclude, [])
        assert {task.origin for task in tasks} == ({"mini"} if mini else {"hub"})
        assert job.model == ("mini" if mini else "t5-base")
        assert planned(job, MINI if mini else T5_BASE)
        assert (name == "") == (len(jobs) == 1)


def test_recipes_mean_what_the_papers_say() -> None:
    (table,) = runs_of("compt-table-1").values()
    assert len(table) == (8 + 3) * 3 * 3, "pt trains each of eight tasks alone"
    assert {(run.config.method, run.config.shots, run.config.seed) for run in table} == {
        (method, shots, seed) for method in ("pt", "mst", "scp", "spp") for shots in (8, 16, 32) for seed in (0, 1, 2)
    }
    large = [run.config for runs in runs_of("compt-table-3", mini=False).values() for run in runs]
    assert [(c.method, c.sources, c.shots, c.max_train) for c in large] == [
        ("spp", 10, None, 5000),
        ("scp", 3, None, 5000),
    ]
    grids = runs_of("crosspt-figure-11")
    for job, of_encoders in (("encoder-as-sources", {0.05, 0.1, 0.15, 0.2}), ("encoder-fixed", {0.1})):
        grid = [run.config for run in grids[job]]
        assert len({(config.lr_source, config.lr_private) for config in grid}) == 16
        assert {config.rate("shared_encoder") for config in grid} == of_encoders
    assert {run.config.method for run in runs_of("crosspt-figure-2")["group2"]} == NINE
    labels = runs_of("crosspt-figure-6")[""]
    assert {run.config.label_mode for run in labels} == {"natural", "synthetic", "numeric"}
    sl2 = runs_of("crosspt-figure-9")["sl2"]
    assert [(run.config.method, run.config.sources) for run in sl2] == [("sl", 2)]


def test_methods_on_mini_have_ten_seeds_or_three_and_no_target_task_is_a_source() -> None:
    jobs = settings_of({}, str(REPOSITORY / "recipes" / "methods-on-mini.toml"), mini=False)
    prompts = set("spp scp slpn pt spot attempt-m mpt-m dept residual".split())
    weights = set("finetune bitfit adapter-m lora".split())
    assert jobs.keys() == prompts | weights
    for method, job in jobs.items():
        assert job.sweep.methods == [method]
        assert job.sweep.values["seed"] == list(range(10 if method in prompts else 3))
        sources = {"spot", "attempt-m", "mpt-m"} & {method} and set(SUITES["mini2"]) - set(SUITES["mini"])
        assert set(job.source_tasks or []) == sources


# The rows of the comparison tables, by the names of methods.
ROWS = {
    "compt-table-9": "spp finetune pt spot attempt attempt-m mpt",
    "crosspt-table-2": "finetune finetune-m bitfit adapter-m hyperformer-m hyperdecoder-m spot attempt attempt-m mpt "
    "mpt-m dept slp",
    "crosspt-table-3": "p mpt dept slpn",
    "dept-table-1": "finetune adapter bitfit lora pt dept finetune-m adapter-m hyperformer-m hyperdecoder-m spot "
    "attempt mpt attempt-m mpt-m",
    "dept-table-2": "finetune adapter bitfit lora pt spot attempt mpt dept",
}


@pytest.mark.parametrize("name", ROWS)
def test_comparison_tables_have_all_their_rows(name: str) -> None:
    assert methods_of(REPOSITORY / "recipes" / f"{name}.toml") == set(ROWS[name].split())


@pytest.mark.parametrize("mini", [False, True], ids=["full", "mini"])
@pytest.mark.parametrize("name", [*ROWS, "dept-few-shot"])
def test_tables_of_other_methods_read_but_for_the_methods(name: str, mini: bool) -> None:
    """All their flags, with prompt tuning in place of each job's methods; the tasks are those of the table."""
    tasks: dict[str, list[str]] = {}
    for job, table in read_jobs(str(REPOSITORY / "recipes" / f"{name}.toml"), mini).items():
        values = {key: parse(key, value, key) for key, value in table.items() if key != "method" and value is not None}
        chosen = [values.get(key) for key in ("suite", "tasks", "include", "exclude")]
        found = resolve_tasks(chosen[0], chosen[1], chosen[2] or [], chosen[3] or [], [])
        assert {task.origin for task in found} == ({"mini"} if mini else {"hub"})
        tasks[job] = [task.name.removeprefix("mini_") for task in found]
        assert values["model"] == ("mini" if mini else "t5-base")
        assert not {"steps", "epochs"} <= set(values)
    expected = {
        "dept-table-1": {*SUITES["glue"], "boolq", "cb", "multirc", "wic", "wsc"},
        "dept-table-2": {*SUITES["others"]},
        "dept-few-shot": {"boolq", "cb", "scitail"},
    }
    assert {task for names in tasks.values() for task in names} == expected.get(name, {*SUITES["glue"]})
    if name in ("dept-table-1", "dept-table-2"):
        # Each row of the table has each of its tasks once.
        for method in ROWS[name].split():
            jobs = read_file(REPOSITORY / "recipes" / f"{name}.toml")["jobs"]
            of = [job for job, table in jobs.items() if method in methods_in([table])]
            assert sorted(task for job in of for task in tasks[job]) == sorted(expected[name])


def test_mini_turns_suites_and_tasks_into_embedded_ones() -> None:
    settings = {"suite": "set2", "include": ["mnli"], "source_tasks": "crosspt-set2, qnli", "model": "t5-base"}
    made = embedded(settings | {"data_root": "rows", "shots": [8]}, "recipe")
    assert made["suite"] == "mini2" and made["model"] == "mini" and made["data_root"] is None
    assert made["include"] == ["mini_mnli"] and made["source_tasks"] == ["mini2", "mini_qnli"] and made["shots"] == [8]
    assert settings["include"] == ["mnli"]
    assert embedded({"suite": "mini", "tasks": ["mini_rte"]}, "recipe")["tasks"] == ["mini_rte"]
    assert {f"mini_{name}" for name, task in TASKS.items() if task.origin == "hub"} - set(TASKS) == {"mini_stsb2"}
    with pytest.raises(InputError, match="recipe: tasks: 'stsb2' has no embedded kind"):
        embedded({"tasks": ["rte", "stsb2"]}, "recipe")


RECIPE = """
suite = "glue"
shots = [8, 16]
epochs = 3

[jobs.one]
method = "pt"

[jobs.two]
method = "spp"
sources = [1, 2]
shots = 4

[mini]
eval_size = 7
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text(RECIPE)
    return str(path)


def test_jobs_take_the_flags_above_them_and_the_command_line_comes_first(recipe: str) -> None:
    jobs = settings_of({"seeds": "3,4", "out": "somewhere"}, recipe, mini=False)
    assert list(jobs) == ["one", "two"]
    one, two = (job.sweep.values for job in jobs.values())
    assert one["shots"] == [8, 16] and two["shots"] == [4] and two["sources"] == [1, 2]
    assert all(job.sweep.values["seed"] == [3, 4] and job.eval_size == 300 for job in jobs.values())
    assert [Path(job.out or "").parts[-2:] for job in jobs.values()] == [("somewhere", "one"), ("somewhere", "two")]
    small = settings_of({"steps": "5"}, recipe, mini=True)
    assert all(job.eval_size == 7 and job.suite == "mini" for job in small.values())
    assert all(job.sweep.values["steps"] == [5] and "epochs" not in job.sweep.values for job in small.values())
    outs = [Path(job.out or "") for job in small.values()]
    assert outs[0].parent == outs[1].parent and outs[0].parent.name.startswith("two-")


def test_a_plain_file_and_no_file_are_one_job(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("suite: set2\nmini: {shots: [4]}\n")
    assert read_jobs(str(path), mini=False) == {"": {"suite": "set2"}}
    small = settings_of({}, str(path), mini=True)[""]
    assert small.suite == "mini2" and small.sweep.values["shots"] == [4] and small.out is None
    assert read_jobs(None, mini=False) == {"": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs = 3", "jobs must be a table, not 3"),
        ("mini = true", "mini must be a table, not True"),
        ("[jobs]\nspp = 1", "jobs.spp must be a table of flags, not 1"),
        ('[jobs."a/b"]', "jobs.a/b: the name becomes a folder's"),
        ("[jobs.a]\nshot = 3", "jobs.a: 'shot'"),
        ("[mini]\nshot = 3", "mini: 'shot'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        settings_of({}, str(path), mini=True)


def test_mini_alone_and_mini_with_resume_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "give it one" in error_of(capsys, train.main, ["--mini"])
    assert "leave out --mini" in error_of(capsys, train.main, ["--mini", f"--resume={tmp_path}"])


def test_a_recipe_of_two_jobs_trains_both(
    line: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.toml"
    path.write_text('[jobs.one]\nmethod = "pt-joint"\n\n[jobs.two]\nmethod = "spp"\nsources = 2\n')
    out = tmp_path / "out"
    given: dict[str, Any] = {"method": None}
    assert train.main([f"--config={path}", *line(out, **given)]) == 0
    said = capsys.readouterr().out
    assert "job 2 of 2: two" in said
    together = said.partition("jobs one and two together:\n")[2]
    assert "pt-joint-k4 " in together and "spp-n2-k4 " in together
    assert [run["id"] for run in results(out / "one")["runs"]] == ["pt-joint-k4-s0"]
    assert [run["id"] for run in results(out / "two")["runs"]] == ["spp-n2-k4-s0"]


def test_the_readme_says_which_recipes_share_a_run() -> None:
    five, six, seven = (
        settings_of({}, str(REPOSITORY / "recipes" / f"compt-table-{k}.toml"), False) for k in (5, 6, 7)
    )
    assert five == six == seven
    readme = (REPOSITORY / "recipes" / "README.md").read_text()
    assert "`compt-table-5`, `-6` and `-7` are one experiment" in readme


THREE = """
[jobs.prompts]
method = ["spp", "pt"]

[jobs.stored]
method = "sip"

[jobs.weights]
method = "finetune"
"""


@pytest.mark.parametrize(
    ("flag", "value", "held", "users"),
    [
        ("lr", "0.1", {"weights": [0.1]}, "weights"),
        ("distil", "2", {"prompts": [2.0], "stored": [2.0]}, "prompts and stored"),
        ("source_steps", "3", {"stored": 3}, "stored"),
        ("source_tasks", "mini", {"stored": ["mini"]}, "stored"),
        ("sources", "2", {"prompts": [2]}, "prompts"),
    ],
)
def test_a_flag_of_the_line_is_for_the_jobs_that_have_a_use_for_it(
    flag: str, value: str, held: dict[str, Any], users: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "three.toml"
    path.write_text(THREE)
    jobs = settings_of({flag: value, "out": "o", "steps": None}, str(path), mini=False)
    kept = {name: job.to_json()[flag] for name, job in jobs.items()}
    assert {name: own for name, own in kept.items() if own != JobSettings().to_json()[flag]} == held
    for job in jobs.values():
        assert planned(job, T5_BASE)
    said = capsys.readouterr().err
    assert said == f"note: --{flag.replace('_', '-')} is for {users}; no other of the 3 jobs has a use for it\n"
    assert settings_of({"steps": "5", "shots": "8"}, str(path), mini=False) and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "jobs", "message"),
    [
        ({"bottleneck": "4"}, "prompts stored", "the methods trained (spp, pt, sip)"),
        (
            {"shared_from": "x"},
            "prompts stored weights",
            "(spp, pt, sip, finetune) starts from a shared prompt, as mpt",
        ),
        ({"source_steps": "3"}, "prompts", "(spp, pt) starts from stored prompts, as sil"),
        ({"distil_temperature": "2"}, "prompts stored weights", "without --distil: none of the runs learns from"),
    ],
)
def test_a_flag_of_the_line_that_no_job_has_a_use_for_is_refused(
    given: dict[str, str], jobs: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(
        "".join(f"[jobs.{part}" for part in THREE.split("[jobs.") if part.partition("]")[0] in jobs.split())
    )
    (flag,) = given
    with pytest.raises(InputError, match=re.escape(message)) as error:
        settings_of(given, str(path), mini=False)
    assert f"of its {len(jobs.split())} job" in str(error.value) and f"--{flag.replace('_', '-')} " in str(error.value)


def test_a_flag_of_the_file_that_its_job_has_no_use_for_stays_refused(tmp_path: Path) -> None:
    path = tmp_path / "three.toml"
    path.write_text("lr = 0.1\n" + THREE)
    jobs = settings_of({}, str(path), mini=False)
    with pytest.raises(InputError, match="--lr has no meaning for any of the methods trained .spp, pt."):
        planned(jobs["prompts"], T5_BASE)


def test_some_jobs_of_a_file_alone(recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jobs = settings_of({"out": "o", "sources": "3"}, recipe, False, only="two")
    assert [(name, job.out, job.sweep.values["sources"]) for name, job in jobs.items()] == [("two", "o/two", [3])]
    assert list(settings_of({}, recipe, False, only="two,one")) == ["one", "two"]
    with pytest.raises(InputError, match="none of its 1 job has a use for a flag: --sources"):
        settings_of({"sources": "3"}, recipe, False, only="one")
    assert "unknown job of" in error_of(capsys, train.main, [f"--config={recipe}", "--jobs=tow"])
    assert "Did you mean 'two'" in error_of(capsys, train.main, [f"--config={recipe}", "--jobs=tow"])
    assert "--jobs takes some of the jobs" in error_of(capsys, train.main, ["--jobs=one"])
    assert "leave out --jobs" in error_of(capsys, train.main, [f"--resume={tmp_path}", "--jobs=one"])


def test_rows_of_a_later_job_are_missed_before_the_first_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "two.toml", tmp_path / "out"
    path.write_text(f'[jobs.one]\nmethod = "pt-joint"\n[jobs.two]\ntasks = ["rte"]\ndata_root = "{tmp_path}"\n')
    said = error_of(capsys, train.main, [f"--config={path}", f"--out={out}", "--steps=1", "--shots=4"])
    assert said.startswith("error: job two: ") and str(tmp_path / "nyu-mll") in said and "--jobs" in said
    assert not out.exists()
