"""What a job's rows are like, held against rows whose flaws are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compt_fast.runs.survey import problems, row_notes, survey
from compt_fast.tasks.examples import JobData
from tests.helpers import jobs


def flawed(folder: Path) -> Path:
    """A task whose rows have each flaw: 12 for training, 6 for evaluation, three labels of which one is not used."""
    (folder / "rows").mkdir(parents=True)
    words = " ".join(["dog"] * 40)
    train: list[tuple[str, int]] = [(f"man sees {k}", k % 2) for k in range(8)]
    train += [("a 犬 cat", 0), ("man  sees 0", 1), ("man sees 1", 1), (words, 0)]
    test: list[tuple[str, int]] = [("man sees 2", 0), ("book", 1), ("ok 猫", 0), ("book", 0), ("film", 1), ("city", 0)]
    for split, rows in (("train", train), ("test", test)):
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (folder / "rows" / f"{split}.jsonl").write_text("".join(lines))
    path = folder / "flawed.toml"
    path.write_text('name = "flawed"\nfields = ["text"]\nlabels = ["no", "yes", "maybe"]\ndata = "rows"\n')
    return path


def opened(tiny_t5: Path, file: Path, **changes: Any) -> JobData:
    chosen = {"method": "pt", "shots": "full", "max_train": 12, "eval_size": 300, "max_source_length": 40}
    return jobs.opened(jobs.settings(tiny_t5, [file], **chosen | changes)).data


def test_every_flaw_is_counted(tiny_t5: Path, tmp_path: Path) -> None:
    data = opened(tiny_t5, flawed(tmp_path))
    train, evaluation = (survey(data, 0, train=of) for of in (True, False))
    assert (train.rows, train.looked, train.labels) == (12, 12, {"no": 6, "yes": 6, "maybe": 0})
    assert (train.repeated, train.contradicting) == (2, 1), "blanks do not tell texts apart"
    assert (evaluation.repeated, evaluation.contradicting) == (1, 1)
    whole = data.tokenizer(" ".join(["dog"] * 40), add_special_tokens=False)["input_ids"]
    named = data.tokenizer("flawed: text:", add_special_tokens=False)["input_ids"]
    assert train.lengths.max() == len(whole) + len(named) + 1 and train.cut == 1 and evaluation.cut == 0
    said = "\n".join(problems(train, evaluation, data.max_length))
    for line in (
        "flawed, train: no row is labelled maybe",
        "flawed, train: --max-source-length 40 cuts 1 of 12 rows; the longest has",
        "flawed, train: 2 of 12 rows repeat the texts of another, 1 of them with another label",
        "flawed, evaluation: 1 of 6 rows repeat the texts of another, 1 of them with another label",
        "flawed: 1 of 5 rows of evaluation have texts that stand in train too",
    ):
        assert line in said


def test_words_that_the_tokenizer_does_not_know(tiny_t5: Path, tmp_path: Path) -> None:
    data = opened(tiny_t5, flawed(tmp_path))
    seen = survey(data, 0, train=False)
    texts = [row.texts[0] for row in data.tasks[0].evaluation]
    ids = sum(data.tokenizer(texts, add_special_tokens=False)["input_ids"], [])
    assert seen.unknown == ["猫"] and seen.unknown_share == pytest.approx(1 / len(ids))
    assert "flawed, evaluation: the trunk's tokenizer does not know " in "".join(problems(seen, seen, 40))


def test_a_job_notes_what_it_uses(tiny_t5: Path, tmp_path: Path) -> None:
    data = opened(tiny_t5, flawed(tmp_path))
    data.evaluation()
    assert not any("among the examples" in note for note in row_notes(data)), "no example is drawn yet"
    (run,) = jobs.opened(jobs.settings(tiny_t5, [tmp_path / "flawed.toml"], method="pt", sampling="random")).runs
    data.training(run.config)
    drawn = len(data.measures)
    assert drawn == 6 + 4
    whole = opened(tiny_t5, tmp_path / "flawed.toml")
    whole.evaluation()
    for index in range(12):
        whole.read(0, index, train=True)
    cut, unknown, shared = row_notes(whole)
    assert cut.startswith("--max-source-length 40 cuts 1 of 18 rows of flawed (the longest has ")
    assert unknown.startswith("flawed: the trunk's tokenizer does not know ") and unknown.endswith("as of 犬, 猫")
    assert shared == "scored, and among the examples too: 1 of 6 rows of flawed"


def test_sound_rows_give_no_note(tiny_t5: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"sentence": f"man sees dog {k}", "label": k % 2}) for k in range(30)]
    file = jobs.toy_task(tmp_path)
    (tmp_path / "toy.jsonl").write_text("\n".join(rows))
    data = opened(tiny_t5, file)
    assert not list(problems(survey(data, 0, train=True), survey(data, 0, train=False), data.max_length))
    assert not row_notes(data)
