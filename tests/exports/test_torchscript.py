"""The TorchScript export answers as the predictor, in a process that knows torch and tokenizers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compt_fast import native
from compt_fast.exports import EXPORTS
from compt_fast.native import Status, library
from compt_fast.prediction.predictor import Predictor
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError
from tests.helpers.made_predictors import EMBEDDED, as_line, as_lines, made_predictor, mini_rows
from tests.helpers.tiny_t5 import make_t5

ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not [name for name in sys.modules if name.partition(".")[0] in ("compt_fast", "transformers")]
"""

pytestmark = pytest.mark.skipif(not native.load(), reason="needs the compiled operators")


def answered(folder: Path, lines: str, repository: Path) -> list[str]:
    """What the example prints for these lines, in a process of its own."""
    command = [sys.executable, "-c", ALONE, str(repository / "examples" / "torchscript_answers.py"), str(folder)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 40), (torch.bfloat16, 12)], ids=["fp32", "bf16"])
def test_every_embedded_task_is_answered_as_by_the_predictor(
    dtype: torch.dtype, count: int, tmp_path: Path, repository: Path
) -> None:
    predictor, rows = made_predictor(dtype), mini_rows(count)
    EXPORTS["torchscript"].write(predictor, tmp_path)
    want = predictor.predict(rows, scores=True)
    assert len({answer.text for answer in want}) > len(EMBEDDED)  # labels and other words
    got = answered(tmp_path, as_lines(predictor, rows), repository)
    said = [line.split("\t") for line in got]
    assert [text for _, text, _ in said] == [answer.text for answer in want]
    if dtype == torch.float32:
        assert got == [as_line(answer) for answer in want]


def test_the_folder_says_what_is_in_it(tmp_path: Path) -> None:
    predictor = made_predictor(names=("mini_rte", "mini_stsb"))
    EXPORTS["torchscript"].write(predictor, tmp_path)
    about = json.loads((tmp_path / "tasks.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} >= {
        "model.pt",
        "ops.so",
        "ops.json",
        "spiece.model",
        "tokenizer.json",
    }
    assert about["trunk"]["sha256"] == predictor.trunk.fingerprint()
    assert about["library"]["file"] == "ops.so" and about["library"]["torch"] == torch.__version__
    assert [task["index"] for task in about["tasks"]] == [0, 1]
    rte, stsb = about["tasks"]
    assert rte["columns"] == ["sentence1", "sentence2"]
    assert rte["before"] == ["rte: sentence1:", " sentence2:"]
    assert rte["labels"] == ["entailment", "not_entailment"] and len(stsb["labels"]) == 26
    assert all(ids[-1] == about["end_id"] for ids in stsb["label_ids"])


def test_labels_are_the_tasks_words_and_the_card_answers(tmp_path: Path, repository: Path) -> None:
    """Also where the trunk writes numbers for them."""
    predictor = made_predictor(names=("mini_rte", "mini_sst2"), label_mode="numeric")
    EXPORTS["torchscript"].write(predictor, tmp_path)
    rows = mini_rows(3, ("mini_rte", "mini_sst2"))
    want = [as_line(answer) for answer in predictor.predict(rows, scores=True)]
    assert {line.partition("\t")[0] for line in want} <= {"entailment", "not_entailment", "negative", "positive"}
    assert answered(tmp_path, as_lines(predictor, rows), repository) == want
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "library_name: pytorch" in card and "| mini_sst2 | `sst2: sentence1: {sentence1}` | `0`, `1` | 10 |" in card
    lines = card.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, cwd=tmp_path, check=True)
    row = {"sentence1": "{sentence1}", "sentence2": "{sentence2}"}
    assert done.stdout == f"{[predictor.predict(row, 'mini_rte').text]}\n"


def test_a_long_row_is_cut_where_the_predictor_cuts_it(tmp_path: Path, repository: Path) -> None:
    predictor = made_predictor(names=("mini_rte",))
    short = {n: replace(one, text=replace(one.text, max_source_length=24)) for n, one in predictor.prompts.items()}
    predictor.set(short)
    EXPORTS["torchscript"].write(predictor, tmp_path)
    rows = [
        {"task": "mini_rte", "sentence1": "the dog sees " * n, "sentence2": "a cat " * (9 - n)} for n in range(1, 9)
    ]
    want = [as_line(answer) for answer in predictor.predict(rows, scores=True)]
    assert answered(tmp_path, as_lines(predictor, rows), repository) == want


def test_a_tokenizer_of_bytes_has_no_pieces(tmp_path: Path) -> None:
    trunk = make_t5(tmp_path / "trunk", "byt5")
    folder = tmp_path / "export"
    folder.mkdir()
    EXPORTS["torchscript"].write(made_predictor(trunk=trunk, names=("mini_rte",)), folder)
    assert (folder / "model.pt").is_file() and not (folder / "spiece.model").exists()


def test_another_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine fast"):
        EXPORTS["torchscript"].write(made_predictor(engine="reference", names=("mini_rte",)), tmp_path)


def test_a_trunk_in_int8_is_refused(tmp_path: Path) -> None:
    predictor = made_predictor(names=("mini_rte",))
    predictor.trunk.quantise()
    with pytest.raises(InputError, match="another --dtype than int8"):
        EXPORTS["torchscript"].write(predictor, tmp_path)


def test_prompts_that_depend_on_the_row_are_refused(tmp_path: Path) -> None:
    predictor = made_predictor(names=("mini_rte",))
    (one,) = predictor.prompts.values()
    shape = PromptShape("spp", 1, 1, True, 10, predictor.trunk.d_model, encoder="none", gates="input")
    by_row = replace(one, prompts=RunPrompts(shape, {}))
    with pytest.raises(InputError, match="made: the prompts of mini_rte are composed for each row"):
        EXPORTS["torchscript"].write(Predictor(predictor.trunk, {"mini_rte": by_row}), tmp_path)


def test_prompts_beside_an_update_of_the_text_are_refused(tmp_path: Path) -> None:
    predictor = made_predictor(names=("mini_rte",))
    (one,) = predictor.prompts.values()
    shape = PromptShape("adept", 1, 0, True, 10, predictor.trunk.d_model, encoder="none")
    updating = replace(one, prompts=RunPrompts(shape, one.prompts.tensors))
    with pytest.raises(InputError, match="made: adept adds to the embeddings of the text, beside the prompt of mini_r"):
        EXPORTS["torchscript"].write(Predictor(predictor.trunk, {"mini_rte": updating}), tmp_path)


def test_the_extension_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = made_predictor(names=("mini_rte",))
    monkeypatch.setattr(library, "_decided", Status(False, "turned off here"))
    with pytest.raises(InputError, match="turned off here"):
        EXPORTS["torchscript"].write(predictor, tmp_path)
