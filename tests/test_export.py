"""The command `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import compt_fast
from compt_fast import export, store
from compt_fast.prompts.artifact import About, RunPrompts, TextFormat, TrunkId, save_prompts
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.tasks.table import TASKS
from tests.helpers.jobs import error_of

Said = pytest.CaptureFixture[str]


def kept(trunk: Path, folder: Path, **text: Any) -> PromptStore:
    """A store with prompts of two tasks."""
    made = PromptStore(folder)
    for k, task in enumerate(("rte", "stsb")):
        values = torch.randn(2 + k, 32, generator=torch.Generator().manual_seed(k))
        score = {"metric": TASKS[task].primary, "value": 61.25}
        more = {"text": TextFormat(**text), "definition": TASKS[task], "score": score}
        made.add(StoredPrompt(f"{task}-mine", task, TrunkId(str(trunk)), values, **more))
    return made


@pytest.mark.parametrize("name", ["peft", "vocabulary"])
def test_out_of_a_store_and_back_into_one(name: str, tiny_t5: Path, tmp_path: Path, capsys: Said) -> None:
    first = kept(tiny_t5, tmp_path / "first", label_mode="numeric", max_source_length=50)
    out, second = tmp_path / "out", PromptStore(tmp_path / "second")
    assert export.main([str(first.folder), f"--format={name}", f"-o={out}"]) == 0
    said = capsys.readouterr().out
    assert f"{name}: rte, stsb in {out} (" in said and f"{out}/README.md says" in said
    assert "AutoModelForSeq2SeqLM.from_pretrained(" in said and "uploaded" not in said
    assert store.main(["add", f"--store={second.folder}", str(out)]) == 0
    for entry in map(first.load, first.names()):
        back = second.load(entry.name)
        assert torch.equal(back.values, entry.values) and back.score == entry.score
        assert (back.trunk, back.definition) == (entry.trunk, entry.definition)
        assert back.text == TextFormat(True, "prepend", 50, "numeric")
    assert compt_fast.load(second.folder).tasks == compt_fast.load(out).tasks


def test_one_task_of_several_paths(tiny_t5: Path, tmp_path: Path, capsys: Said) -> None:
    made, out = kept(tiny_t5, tmp_path / "store").folder, tmp_path / "out"
    line = [str(made / "rte-mine"), str(made / "stsb-mine"), "--format=peft", f"--out={out}"]
    assert export.main(line) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["rte", "stsb", "trunk"]
    assert export.main([str(made), "--task=stsb", "--format=vocabulary", f"--out={out}"]) == 0
    assert "vocabulary: stsb in" in capsys.readouterr().out and not (out / "trunk").exists()
    assert store.main(["add", f"--store={tmp_path / 'again'}", str(out), "--name=other", "--task=stsb"]) == 0
    assert PromptStore(tmp_path / "again").names() == ["other"]


def stored_run(trunk: Path, folder: Path, shape: PromptShape) -> Path:
    """The prompts of a run of one task."""
    bank = PromptBank.create(shape, [4])
    prompts = RunPrompts.of(shape, compose(bank.params, shape), bank.params)
    about = About("run", "r", ("rte",), TrunkId(str(trunk)), definitions={"rte": TASKS["rte"]})
    save_prompts(folder, prompts, about)
    return folder


def test_what_is_wrong_is_named(tiny_t5: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = kept(tiny_t5, tmp_path / "store").folder, tmp_path / "out"

    def refused(path: Path, *line: str) -> str:
        said = error_of(capsys, export.main, [str(path), f"-o={out}", *line])
        assert not out.exists() or list(out.iterdir()) == [out / "mine"]
        return said

    assert "unknown format 'petf'. Did you mean 'peft'?" in refused(made, "--format=petf")
    assert "unknown task of" in refused(made, "--format=peft", "--task=rta")
    assert "no prompts; name a run folder" in refused(tmp_path / "none", "--format=peft")
    assert "unknown value of --engine 'slow'" in refused(made, "--format=peft", "--engine=slow")
    rows = stored_run(tiny_t5, tmp_path / "rows", PromptShape("spp", 1, 2, True, 2, 32, gates="input"))
    updating = PromptShape("dept", 1, 0, True, 2, 32, encoder="none", update_length=4)
    updates = stored_run(tiny_t5, tmp_path / "updates", updating)
    for name in ("peft", "vocabulary"):
        assert "with gates 'input' every row has a prompt of its own" in refused(rows, f"--format={name}")
        assert "dept adds to the embeddings of the text, beside the prompt" in refused(updates, f"--format={name}")
    behind = kept(tiny_t5, tmp_path / "behind", prompt_position="append").folder
    assert "and these stand behind it" in refused(behind, "--format=peft")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "no token of the hub: log in with `hf auth login`" in refused(made, "--format=peft", "--push=me/it")
    assert "--push 'a/b/c': " in refused(made, "--format=peft", "--push=a/b/c")
    out.mkdir()
    (out / "mine").touch()
    assert "out: holds mine, which no export wrote" in refused(made, "--format=peft")


class Hub:
    """In the place of `huggingface_hub.HfApi`: notes what it is asked for."""

    asked: list[tuple[Any, ...]] = []
    refuses = ""

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> Any:
        assert exist_ok
        self.asked.append(("create", repo_id))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def upload_folder(self, *, folder_path: Path, repo_id: str) -> str:
        if self.refuses:
            raise huggingface_hub.errors.HFValidationError(self.refuses)
        files = sorted(str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file())
        self.asked.append(("upload", repo_id, files))
        return f"https://huggingface.co/{repo_id}/commit/1"


def test_a_folder_is_uploaded(tiny_t5: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = kept(tiny_t5, tmp_path / "store").folder, tmp_path / "out"
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    line = [str(made), "--format=vocabulary", f"-o={out}", "--push=it"]
    assert export.main(line) == 0
    assert "uploaded to https://huggingface.co/me/it/commit/1" in capsys.readouterr().out
    files = sorted(str(path.relative_to(out)) for path in out.iterdir())
    assert Hub.asked == [("create", "it"), ("upload", "me/it", files)] and "model.safetensors" in files
    monkeypatch.setattr(Hub, "refuses", "no rights\nand more")
    assert f"--push me/it: the hub did not take {out}: no rights" in error_of(capsys, export.main, line)


def test_help_says_what_each_format_is(capsys: Said) -> None:
    with pytest.raises(SystemExit):
        export.main(["--help"])
    said = capsys.readouterr().out
    assert (
        "peft         PEFT: an adapter a task" in said and "one of peft, vocabulary" in said and "exit codes:" in said
    )
