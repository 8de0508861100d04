"""Sections against the numbers that they were made from."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compt_fast.analysis import about_choices, about_masks, about_prompts, about_scores, draw
from compt_fast.analysis.exhibits import Exhibit, Section
from compt_fast.analysis.runs import Entry, Material, portraits, ranked_by, read_runs
from compt_fast.runs.masking import Way
from compt_fast.utils.errors import InputError
from tests.helpers.made_runs import made_run


@pytest.fixture(scope="module")
def material(every_kind: list[Path]) -> Material:
    """All kinds of runs, with the masked scores of their portraits."""
    found = read_runs(every_kind)
    found.portraits.extend(portraits(found.entries, None))
    for entry in found.portraits:
        masks = about_masks.measured(entry, Way())
        assert masks is not None
        found.masked[entry.prompts] = masks
    return found


def one(section: Section | None, name: str) -> Exhibit:
    assert section is not None
    return next(exhibit for exhibit in section.all() if exhibit.name.startswith(name))


def chosen(material: Material, folder: str, **settings: Any) -> list[Entry]:
    """The runs of a folder with such settings."""
    return [
        entry
        for entry in material.entries
        if entry.folder.name == folder and all(entry.settings[key] == value for key, value in settings.items())
    ]


def mean(entries: list[Entry]) -> float:
    assert entries
    return statistics.fmean(entry.average for entry in entries)


def test_the_best_of_each_column_of_a_result_table_stands_out(material: Material) -> None:
    table = one(about_scores.results(material), "results-mini-rte-mini-mnli-mini-stsb-16-shots-base").table
    assert list(table.heads)[2:6] == ["rte (accuracy)", "mnli (accuracy)", "stsb (spearman)", "stsb (pearson)"]
    for c in range(2, len(table.heads)):
        numbers = [float(str(row[c]).split()[0]) for row in table.rows]
        assert {r for r, column in table.best if column == c} == {r for r, n in enumerate(numbers) if n == max(numbers)}
    row = next(row for row in table.rows if row[0] == "pt-joint-k16")
    average = str(row[list(table.heads).index("average (paper)")])
    assert average.split()[0] == f"{mean(chosen(material, 'base', method='pt-joint', shots=16)):.1f}"


def test_folders_with_tasks_in_common_have_a_table_together(material: Material, tmp_path: Path) -> None:
    section = about_scores.results(material)
    table = one(section, "results-4-tasks-16-shots-together").table
    rows = {str(row[0]): row for row in table.rows}
    assert {"spp-n2-k16 (base)", "spp-n2-k16 (fixed)", "spp-n2-k16 (more)", "pt-joint-k16"} <= rows.keys()
    four, three = ([cell != "-" for cell in rows[name][2:]] for name in ("spp-n2-k16 (more)", "pt-joint-k16"))
    assert all(four) and not all(three), "an average over tasks needs all"
    assert one(section, "results-4-tasks-16-shots-together").says.endswith(
        "more and rates; an average needs all 4 tasks."
    )
    folders = []
    for name, of in (("weak", "pt-joint"), ("strong", "mst")):
        given = {"method": of, "tasks": "mini_rte,mini_mnli", "seeds": "0,1"}
        folders.append(made_run(tmp_path / name, lambda *_, of=of: 0.9 - 0.3 * (of == "mst"), masked=False, **given)[0])
    exhibit = one(about_scores.results(read_runs(folders)), "results-mini-rte-mini-mnli-16-shots-together")
    assert exhibit.says.startswith("The 2 rows of weak and strong. By test scores pt-joint leads")
    assert [row[0] for row in exhibit.table.rows] == ["pt-joint-k16", "mst-n1-k16"]
    alone = about_scores.results(read_runs(folders[:1]))
    assert alone is not None and len(alone.exhibits) == 1, "one folder has its own table"


def test_the_leader_is_named_with_its_gap_and_the_doubt(material: Material) -> None:
    exhibit = one(about_scores.results(material), "results-mini-rte-mini-mnli-mini-stsb-16-shots-base")
    groups = {
        f"{method}, N={n}" if n else method: chosen(material, "base", method=method, sources=n, shots=16)
        for method, n in (("spp", 1), ("spp", 2), ("pt-joint", 0), ("sl", 1), ("sl", 2))
    }
    ranked = sorted(groups, key=lambda name: -mean(groups[name]))
    gap = mean(groups[ranked[0]]) - mean(groups[ranked[1]])
    spread = max(statistics.stdev(e.average for e in groups[name]) for name in ranked[:2])
    assert exhibit.says.startswith(f"By test scores {ranked[0]} leads with {mean(groups[ranked[0]]):.1f} %")
    assert f"{gap:.1f} points above {ranked[1]}" in exhibit.says
    assert ("less than the seeds' spread" in exhibit.says) == (gap < spread)
    assert exhibit.says.endswith(f"{ranked[-1]} is last with {mean(groups[ranked[-1]]):.1f} %.")


def test_nobody_leads_where_all_are_level(tmp_path: Path) -> None:
    given = {"method": "pt-joint,spp", "tasks": "mini_rte", "seeds": "0"}
    folder, _ = made_run(tmp_path / "run", lambda *_: 1.0, masked=False, **given)
    section = about_scores.results(read_runs([folder]))
    assert section is not None
    says = [exhibit.says for exhibit in section.exhibits]
    assert any(said.startswith("By test scores all 2 settings are level, with 100.0 % on average") for said in says)
    assert not any("leads" in said for said in says)


def test_no_group_of_runs_is_lost_to_another_of_its_title(tmp_path: Path) -> None:
    given = {"method": "pt-joint", "tasks": "mini_rte,mini_cola", "seeds": "0,1"}
    folders = [
        made_run(tmp_path / name / "run", masked=False, **given, eval_size=size)[0]
        for name, size in (("a", "50"), ("b", "100"))
    ]
    panels = about_scores.panels(read_runs(folders))
    title = "mini_rte, mini_cola"
    assert {name: len(group) for name, group in panels.items()} == {f"{title} (a/run)": 2, f"{title} (b/run)": 2}
    # tasks trained apart, one of which has not finished for one seed
    material = read_runs(folders[:1])
    whole, half = material.entries
    left = replace(half, result=replace(half.result, tasks={"mini_rte": half.result.tasks["mini_rte"]}))
    panels = about_scores.panels(replace(material, entries=[whole, left]))
    assert panels == {f"{title} (run)": [whole], f"{title} (run), 2": [left]}


def test_trunks_of_one_name_are_not_compared(tmp_path: Path) -> None:
    material = read_runs(
        [made_run(tmp_path / "run", masked=False, method="pt-joint", tasks="mini_rte", seeds="0,1")[0]]
    )
    first, second = material.entries
    panels = about_scores.panels(replace(material, entries=[first, replace(second, trunk="1" * 64)]))
    assert list(panels.values()) == [[first], [replace(second, trunk="1" * 64)]]


def test_more_lines_than_colours_become_several_pictures(tmp_path: Path) -> None:
    rates = ",".join(str(k / 100) for k in range(1, 12))
    given = {"method": "pt-joint", "shots": "4,8", "lr_private": rates, "tasks": "mini_rte,mini_cola"}
    folder, _ = made_run(tmp_path / "run", masked=False, **given)
    section = about_scores.shots(read_runs([folder]))
    assert section is not None and [len(e.table.rows) for e in section.exhibits] == [2 * draw.MOST_LINES, 4]
    assert [exhibit.name[-2:] for exhibit in section.exhibits] == ["-1", "-2"]


def test_methods_without_sources_stand_beside_the_number_of_sources(material: Material) -> None:
    table = one(about_scores.sources(material), "sources").table
    level = [row for row in table.rows if row[1] is None]
    assert [row[0] for row in level] == ["pt-joint, 8 shots", "pt-joint, 16 shots"]
    assert level[0][2] == pytest.approx(mean(chosen(material, "base", method="pt-joint", shots=8)))


def test_a_grid_of_rates_holds_means_and_names_the_best(material: Material) -> None:
    exhibit = one(about_choices.rates(material), "rates-")
    assert exhibit.table.heads == ["private rate \\ source rate", "0.1", "0.2"]
    cells = {}
    for row, private in zip(exhibit.table.rows, (0.05, 0.1), strict=True):
        assert row[0] == str(private)
        for cell, source in zip(row[1:], (0.1, 0.2), strict=True):
            cells[private, source] = cell
            assert cell == pytest.approx(mean(chosen(material, "rates", lr_private=private, lr_source=source)))
    private, source = max(cells, key=lambda at: float(str(cells[at])))
    assert f"best with source rate {source} and private rate {private}" in exhibit.says


def test_one_varied_rate_is_a_curve(tmp_path: Path) -> None:
    given = {"method": "spp", "lr_source": "0.05", "lr_private": "0.01,0.02", "tasks": "mini_rte"}
    folder, _ = made_run(tmp_path / "run", masked=False, **given)
    exhibit = one(about_choices.rates(read_runs([folder])), "rates-private")
    assert [exhibit.table.text(r, 1) for r in range(2)] == ["0.01", "0.02"], "a reader sees them unrounded"
    assert [line.split(",")[1] for line in exhibit.table.csv().splitlines()[1:]] == ["0.01", "0.02"]


@pytest.mark.parametrize(
    ("maker", "folders", "levels"),
    [
        (about_choices.router, ("base", "constant"), ("learned weights", "constant weights")),
        (about_choices.prefix, ("base", "bare"), ("prefix", "no prefix")),
        (about_choices.label_modes, ("base", "numbers"), ("natural labels", "numeric labels")),
    ],
)
def test_a_choice_compares_runs_that_differ_in_it_alone(
    maker: Any, folders: tuple[str, str], levels: tuple[str, str], material: Material
) -> None:
    section = maker(material)
    assert section is not None and len(section.exhibits) == 1
    rows = section.exhibits[0].table.rows
    means = [mean(chosen(material, folder, method="spp", sources=2, shots=16)) for folder in folders]
    assert [row[0] for row in rows] == ["spp", "spp"]
    assert {row[1]: row[2] for row in rows} == pytest.approx(dict(zip(levels, means, strict=True)))
    ahead = levels[means.index(max(means))]
    assert section.exhibits[0].says.startswith(f"Ahead by test scores in the one comparison: {ahead}, on average")
    assert f"{abs(means[0] - means[1]):+.1f} points against" in section.exhibits[0].says


def test_gates_are_compared_along_shots_too(material: Material) -> None:
    section = about_choices.gates(material)
    assert section is not None and len(section.exhibits) == 2
    rows = section.exhibits[1].table.rows
    assert [(row[0], row[1]) for row in rows] == [
        (f"{kind} gates", shots) for kind in ("fixed", "learned") for shots in (8, 16)
    ]


def test_a_task_more_is_judged_on_the_tasks_that_both_have(material: Material) -> None:
    exhibit = one(about_choices.inclusion(material), "including-sst2")
    (with_it, without) = exhibit.table.rows
    assert list(exhibit.table.heads) == ["run", "sst2", "average", "rte", "mnli", "stsb"]
    more = chosen(material, "more")
    rte = statistics.fmean(entry.score("mini_rte") for entry in more)
    assert with_it[3] == pytest.approx(rte) and with_it[1] == "with" and without[1] == "without"
    assert without[2] == pytest.approx(mean(chosen(material, "base", method="spp", sources=2, shots=16)))


def test_sources_that_are_as_many_as_the_tasks_grow_with_them(tmp_path: Path) -> None:
    given = {"method": "sln,slpn", "tasks": "mini_rte,mini_mnli", "prompt_length": "2"}
    small, _ = made_run(tmp_path / "small", masked=False, **given)
    large, _ = made_run(tmp_path / "large", masked=False, include="mini_sst2", **given)
    exhibit = one(about_choices.inclusion(read_runs([small, large])), "including-sst2")
    assert [row[:2] for row in exhibit.table.rows] == [
        [name, said] for name in ("sln", "slpn") for said in ("with", "without")
    ]
    # sources that a flag counts are the same number in both, and 2 against 3 would be another difference
    named, _ = made_run(tmp_path / "named", masked=False, include="mini_sst2", sources="3", **given)
    assert about_choices.inclusion(read_runs([small, named])) is None


def test_a_normalisation_that_a_task_more_turns_is_said(tmp_path: Path) -> None:
    given = {"method": "spp,mst", "tasks": "mini_rte,mini_mnli,mini_qnli", "sources": "2", "prompt_length": "2"}
    small, _ = made_run(tmp_path / "small", masked=False, **given)
    large, _ = made_run(tmp_path / "large", masked=False, include="mini_sst2", **given)
    says = one(about_choices.inclusion(read_runs([small, large])), "including-sst2").says
    assert "the router normalises by softmax with sst2 and sparsemax without, in spp." in says
    fixed = [
        made_run(tmp_path / f"{more}fixed", masked=False, normalisation="softmax", include=more or None, **given)[0]
        for more in ("", "mini_sst2")
    ]
    assert "normalises" not in one(about_choices.inclusion(read_runs(fixed)), "including-sst2").says


def test_no_part_carries_a_task_on_which_all_score_nothing_or_alike(material: Material) -> None:
    carrier = about_masks._carrier
    assert carrier(60.0, 50.0, 61.0) == "sources" and carrier(50.0, 60.0, 61.0) == "private"
    assert carrier(50.0, 50.0, 56.0) == "both"
    assert carrier(0.0, 0.0, 0.0) == carrier(50.0, 50.0, 50.0) == carrier(50.0, 50.0, 54.0) == "neither"
    assert carrier(-3.0, -10.0, 0.0) == "neither", "correlations below 0"
    entry = next(entry for entry in material.portraits if entry.id == "spp-n2-k16-s0")
    level = {"tasks": {task: {"primary": "accuracy", "scores": {"accuracy": 50.0}} for task in entry.tasks}}
    masks = {name: level | {"average": 50.0} for name in ("source-1", "sources", "private", "total")}
    says = about_masks._masking_say(entry, masks, ["rte", "mnli", "stsb"])
    assert says.startswith("Neither part carries rte, mnli and stsb")


def test_development_scores_decide_where_they_are_asked_for(tmp_path: Path) -> None:
    """They stand in the order opposite to that of the test."""
    given = {
        "method": "pt-joint",
        "tasks": "mini_rte,mini_cola",
        "shots": "16",
        "lr_private": "0.01,0.07",
        "select": "best",
    }
    folder, _ = made_run(
        tmp_path / "run", lambda config, task: 0.95 if config.lr_private == 0.01 else 0.3, masked=False, **given
    )
    material = read_runs([folder])
    says = one(about_choices.rates(material), "rates-private").says
    assert says.startswith("Best by test scores is pt-joint at 0.01 (")
    chosen = ranked_by(material, "development")
    best = next(entry for entry in material.entries if entry.config.lr_private == 0.07)
    says = one(about_choices.rates(chosen), "rates-private").says
    assert says.startswith(
        f"Best by development scores is pt-joint at 0.07 ({100 - best.average:.1f} % in development, "
        f"{best.average:.1f} % in the test)"
    )
    ranking = one(about_scores.results(chosen), "results").says
    assert ranking.startswith("By development scores pt-joint, private rate 0.07 leads")
    without = read_runs([made_run(tmp_path / "last", masked=False, method="pt-joint", tasks="mini_rte")[0]])
    with pytest.raises(
        InputError, match="last: pt-joint-k16-s0 has no development score to rank by; train with --select best"
    ):
        ranked_by(without, "development")


def test_the_last_column_of_a_masking_table_is_the_evaluation(material: Material) -> None:
    section = about_masks.masking(material)
    assert section is not None
    names = {entry.id for entry in material.portraits if entry.config.method != "pt-joint"}
    for exhibit in section.exhibits:
        entry = next(
            e for e in material.portraits if e.id in exhibit.title and exhibit.title.endswith(f"({e.folder.name})")
        )
        assert exhibit.table.heads[-1] == "total"
        assert [row[-1] for row in exhibit.table.rows] == [*(entry.score(task) for task in entry.tasks), entry.average]
    assert len(section.exhibits) == len([e for e in material.portraits if e.id in names and e.id != "sl-n1-k16-s0"])


def test_a_confusion_table_counts_every_row_and_keeps_off_label_strings(material: Material) -> None:
    exhibit = one(about_masks.confusion(material), "confusion-mini-rte-mini-mnli-mini-stsb-spp-n2-k16-s0-base-mnli")
    assert list(exhibit.table.heads) == ["prompt", "answer", "entailment", "neutral", "contradiction"]
    (entry,) = [e for e in material.portraits if e.id == "spp-n2-k16-s0" and e.folder.name == "base"]
    masks = material.masked[entry.prompts]
    for block, mask in (("sources", "sources"), ("private", "private"), ("combined", "total")):
        rows = [row for row in exhibit.table.rows if row[0] == block]
        counts, last = rows[:-1], rows[-1]
        predictions = masks[mask]["tasks"]["mini_mnli"]["predictions"]
        for c, gold in enumerate(("entailment", "neutral", "contradiction"), start=2):
            assert sum(int(row[c] or 0) for row in counts) == sum(predictions[gold].values())
            expected = 100 * predictions[gold].get(gold, 0) / sum(predictions[gold].values())
            assert last[c] == pytest.approx(expected)
        assert f"accuracy {masks[mask]['tasks']['mini_mnli']['scores']['accuracy']:.1f}" in str(last[1])
        off = any("some <b>words" in text for answers in predictions.values() for text in answers)
        assert any(str(row[1]).startswith("“some <b>words") for row in counts) == off
    titles = [e.title for e in (about_masks.confusion(material) or Section("", "", [])).all()]
    assert "stsb" not in titles, "a score has no confusion table"


def test_off_label_answers_that_begin_alike_are_counted_each(tmp_path: Path) -> None:
    folder, _ = made_run(tmp_path / "run", method="spp", sources="1", tasks="mini_rte")
    found = read_runs([folder])
    (entry,) = found.entries
    found.portraits.append(entry)
    masks = found.masked[entry.prompts] = about_masks.measured(entry, Way()) or {}
    said = {"a long answer of the model, one": 3, "a long answer of the model, two": 4, "a long ans": 5}
    for mask in masks.values():
        predictions = mask["tasks"]["mini_rte"]["predictions"]
        predictions |= {gold: dict(said) for gold in predictions}
    rows = one(about_masks.confusion(found), "confusion").table.rows
    for block in ("sources", "private", "combined"):
        counts = [row for row in rows if row[0] == block][:-1]
        assert [row[2] for row in counts] == [5, 4, 3], "every answer has a row, the most frequent first"
        assert len({row[1] for row in counts}) == 3, "and a reader can tell them apart"


def test_numeric_labels_are_the_labels_of_their_confusion_table(material: Material) -> None:
    exhibit = one(about_masks.confusion(material), "confusion-mini-rte-mini-mnli-mini-stsb-spp-n2-k16-s0-numbers-mnli")
    assert list(exhibit.table.heads)[2:] == ["0", "1", "2"]


def test_weighted_similarity_is_100_for_sl_and_nothing_for_pt(material: Material) -> None:
    exhibit = one(about_prompts.weighted(material), "weighted-similarity-mini-rte-mini-mnli-mini-stsb")
    rows = {(row[0], row[1]): row[2] for row in exhibit.table.rows}
    assert rows["sl, N=1", 8] == pytest.approx(100) and rows["sl, N=1", 16] == pytest.approx(100)
    assert rows["pt-joint", None] is None and "not defined for pt-joint, which has no weighed sources" in exhibit.says
    assert "sl, N=1 is at 100" in exhibit.says


def test_no_runs_make_no_sections() -> None:
    nothing = Material([], [], [])
    makers = (about_scores.results, about_scores.methods, about_scores.shots, about_scores.sources)
    makers += (about_choices.rates, about_choices.router, about_choices.inclusion)
    makers += (about_prompts.router, about_prompts.weighted, about_prompts.stored)
    makers += (about_masks.masking, about_masks.confusion)
    assert [maker(nothing) for maker in makers] == [None] * len(makers)
