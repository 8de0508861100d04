"""The command `store`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compt_fast import evaluate, store, train
from compt_fast.prompts.artifact import RunPrompts, load_prompts, save_prompts
from compt_fast.prompts.store import PromptStore
from compt_fast.runs.loaded import load_job
from tests.helpers.foreign import peft_adapter, t5_base_prompts
from tests.helpers.jobs import Line, error_of
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import make_t5

Said = pytest.CaptureFixture[str]


def run(capsys: Said, folder: Path, *line: str, code: int = 0) -> str:
    capsys.readouterr()
    assert store.main([line[0], f"--store={folder}", *line[1:]]) == code
    return capsys.readouterr().out


def test_the_prompts_of_t5_base(tmp_path: Path, capsys: Said) -> None:
    folder = tmp_path / "store"
    for task, path in t5_base_prompts(tmp_path).items():
        said = run(capsys, folder, "add", str(path), f"--task={task}", "--model=t5-base")
        assert said == f"added {task}-m100: 100 tokens of width 768\n"
    listed = run(capsys, folder, "list")
    assert all(f"{task}-m100" in listed for task in ("mnli", "qnli", "qqp", "sst2")) and "t5-base" in listed
    shown = run(capsys, folder, "show", "mnli-m100")
    assert '"imported": "mnli_prompt.pt"' in shown and "standard deviation of its values" in shown
    likeness = [line.split()[-2:] for line in shown.splitlines() if "mean-token cosine" in line]
    assert {name for _, name in likeness} == {"qnli-m100", "qqp-m100", "sst2-m100"}
    assert [float(c) for c, _ in likeness] == sorted((float(c) for c, _ in likeness), reverse=True)
    if real("t5-base-prompts"):
        cosine = {name: float(value) for value, name in likeness}
        assert cosine["qnli-m100"] == pytest.approx(0.89, abs=0.01)
        assert cosine["qqp-m100"] == pytest.approx(0.61, abs=0.01)
    assert run(capsys, folder, "check", "--model=t5-base") == "4 prompts, 0 with something wrong\n"
    said = run(capsys, folder, "check", "--model=mini", code=1)
    assert "wrong: stored prompt mnli-m100" in said and "4 with something wrong" in said
    assert run(capsys, folder, "remove", "mnli-m100", "qqp-m100") == "removed mnli-m100\nremoved qqp-m100\n"
    assert PromptStore(folder).names() == ["qnli-m100", "sst2-m100"]


def test_an_adapter_names_its_trunk(tmp_path: Path, capsys: Said) -> None:
    adapter = peft_adapter(tmp_path / "adapter", torch.randn(5, 4))
    run(capsys, tmp_path / "store", "add", str(adapter), "--task=rte", "--name=mine")
    entry = PromptStore(tmp_path / "store").load("mine")
    assert entry.trunk.name == "t5-base" and entry.trunk.sha256 is None and entry.task == "rte"


def test_a_trunk_that_is_at_hand_is_hashed(tmp_path: Path, tiny_t5: Path, capsys: Said) -> None:
    torch.save(torch.randn(3, 32), tmp_path / "a.pt")
    folder = tmp_path / "store"
    run(capsys, folder, "add", str(tmp_path / "a.pt"), "--task=rte", f"--model={tiny_t5}", "--dtype=bf16")
    trunk = PromptStore(folder).load("rte-m3").trunk
    assert trunk.name == str(tiny_t5) and trunk.dtype == "bf16" and len(trunk.sha256 or "") == 64
    assert run(capsys, folder, "check", f"--model={tiny_t5}").endswith("0 with something wrong\n")
    other = make_t5(tmp_path / "other", seed=1)
    assert "whose weights differ" in run(capsys, folder, "check", f"--model={other}", code=1)
    torch.save(torch.randn(3, 33), tmp_path / "b.pt")
    argv = ["add", f"--store={folder}", str(tmp_path / "b.pt"), "--task=cola", f"--model={tiny_t5}"]
    assert "its d_model 33 does not fit trunk" in error_of(capsys, store.main, argv)


@pytest.fixture(scope="module")
def trained(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert train.main(line(out, method="spp,pt-joint", scoring="generate")) == 0
    return out


def test_a_runs_prompts_reload_to_the_same_results(trained: Path, tmp_path: Path, capsys: Said) -> None:
    """From the run to the store and back into the run's folder: `evaluate` finds the same numbers."""
    name = "spp-n3-k4-s0"
    said = run(capsys, tmp_path, "add", str(trained / "prompts" / name))
    assert said.splitlines() == [f"added toy_{x}-m2: 2 tokens of width 32" for x in "ab"]
    entries = [PromptStore(tmp_path).load(f"toy_{x}-m2") for x in "ab"]
    prompts = load_job(trained, {}).prompts(name)
    assert torch.equal(torch.stack([entry.values for entry in entries]), prompts.tensors["targets"])
    _, about = load_prompts(trained / "prompts" / name)
    back = {**prompts.tensors, "targets": torch.stack([entry.values for entry in entries])}
    save_prompts(trained / "prompts" / name, RunPrompts(prompts.shape, back), about)
    assert evaluate.main([str(trained)]) == 0
    assert "the same numbers as in results.json" in capsys.readouterr().out


def test_one_task_of_a_run(trained: Path, tmp_path: Path, capsys: Said) -> None:
    source = str(trained / "prompts" / "pt-joint-k4-s0")
    run(capsys, tmp_path, "add", source, "--task=toy_b", "--name=mine")
    assert PromptStore(tmp_path).names() == ["mine"]

    def refused(*line: str) -> str:
        return error_of(capsys, store.main, ["add", f"--store={tmp_path}", source, *line])

    assert "Did you mean 'toy_b'" in refused("--task=toy_d")
    assert "holds 2: give --task too" in refused("--name=other")
    assert "its manifest names the trunk; leave out --model" in refused("--model=mini")
    assert "has mine already; take --replace or another --name" in refused("--task=toy_a", "--name=mine")
    run(capsys, tmp_path, "add", source, "--task=toy_a", "--name=mine", "--replace")
    assert PromptStore(tmp_path).load("mine").task == "toy_a"


def test_what_is_wrong_is_named(tmp_path: Path, capsys: Said) -> None:
    torch.save(torch.randn(3, 4), tmp_path / "a.pt")
    folder = tmp_path / "store"

    def refused(*line: str) -> str:
        return error_of(capsys, store.main, [line[0], f"--store={folder}", *line[1:]])

    assert "which task was it trained for? Say --task" in refused("add", str(tmp_path / "a.pt"))
    assert "which trunk was it trained with? Say --model" in refused("add", str(tmp_path / "a.pt"), "--task=rte")
    assert "none.pt: no such file or folder" in refused("add", str(tmp_path / "none.pt"), "--task=rte")
    assert "unknown prompt in the store" in refused("show", "rte")
    for task in ("rte", "cola"):
        run(capsys, folder, "add", str(tmp_path / "a.pt"), f"--task={task}", "--model=t5-base")
    path = folder / "rte-m3" / "prompt.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    said = run(capsys, folder, "list")
    assert "cola-m3" in said and f"damaged: {path}: cannot be read" in said
    said = run(capsys, folder, "check", code=1)
    assert f"wrong: {path}: cannot be read" in said and "2 prompts, 1 with something wrong" in said


def test_listing_what_is_no_store(tmp_path: Path, capsys: Said) -> None:
    assert store.main(["list", f"--store={tmp_path / 'typo'}"]) == 2
    assert "typo: no such folder" in capsys.readouterr().err
    assert "has no prompts" in run(capsys, tmp_path, "list")
    (tmp_path / "config.json").write_text("{}")
    assert store.main(["list", f"--store={tmp_path}"]) == 2
    assert f"is a run folder: its store is {tmp_path}/store" in capsys.readouterr().err
