"""Prompts of other programs: tensor files, and adapters of PEFT."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.prompts.foreign import read_foreign
from compt_fast.prompts.similarity import mean_cosine
from compt_fast.utils.errors import InputError
from tests.helpers.foreign import peft_adapter, t5_base_prompts
from tests.helpers.shared import real

VALUES = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))


def test_trained_prompts_of_t5_base(tmp_path: Path) -> None:
    """Their likeness is known where they are the real ones."""
    found = {task: read_foreign(path).values for task, path in t5_base_prompts(tmp_path).items()}
    for task, values in found.items():
        assert values.shape == (100, 768) and values.dtype == torch.float32 and not values.requires_grad, task
        assert 9 < values.std() < 40
    if real("t5-base-prompts"):
        stack = torch.stack(list(found.values()))
        likeness = mean_cosine(stack, stack)
        order = list(found)
        for a, b, expected in (("mnli", "qnli", 0.89), ("mnli", "qqp", 0.61), ("qnli", "qqp", 0.65)):
            assert float(likeness[order.index(a), order.index(b)]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_files_of_one_tensor(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"prompt{suffix}"
    if suffix == ".safetensors":
        save_file({"soft_prompt": VALUES}, path)
    else:
        torch.save({"soft_prompt": VALUES, "step": torch.tensor(3)} if suffix == ".bin" else VALUES, path)
    foreign = read_foreign(path)
    assert torch.equal(foreign.values, VALUES)
    assert foreign.model is None and foreign.notes == {"imported": path.name}


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run-by-a-pickle",)


def write_pickle(value: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "prompt.pt"
        if isinstance(value, Evil):
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, path)
        return path

    return write


def truncated(folder: Path) -> Path:
    torch.save(VALUES, folder / "prompt.pt")
    content = (folder / "prompt.pt").read_bytes()
    (folder / "prompt.pt").write_bytes(content[: len(content) // 2])
    return folder / "prompt.pt"


def text(folder: Path) -> Path:
    (folder / "prompt.txt").write_text("1 2 3")
    return folder / "prompt.txt"


def empty(folder: Path) -> Path:
    (folder / "prompt.safetensors").touch()
    return folder / "prompt.safetensors"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_pickle(Evil()), r"prompt\.pt: no file of tensors, or one that would run code"),
        (write_pickle({"a": VALUES, "b": VALUES}), r"one tensor \(tokens, d_model\) is needed, and it holds"),
        (write_pickle(VALUES[0]), r"is needed, and it holds \{'': \(4,\)\}"),
        (write_pickle({"a": VALUES, "note": "x"}), "holds Tensor, str, not tensors alone"),
        (write_pickle({}), "holds nothing, not tensors alone"),
        (write_pickle(VALUES.long()), "not torch.int64"),
        (truncated, "no file of tensors"),
        (empty, r"prompt\.safetensors: cannot be read"),
        (text, r"prompt\.txt: a prompt is a \.pt, \.pth, \.bin or \.safetensors file"),
        (lambda folder: folder / "none.pt", r"none\.pt: cannot be read \(No such file"),
        (lambda folder: folder, "no adapter_config.json; a folder to import is a PEFT adapter"),
    ],
)
def test_files_that_hold_no_prompt(
    write: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        read_foreign(write(tmp_path))
    assert not (tmp_path / "run-by-a-pickle").exists()


def test_an_adapter_of_peft(tmp_path: Path) -> None:
    foreign = read_foreign(peft_adapter(tmp_path / "adapter", VALUES))
    assert torch.equal(foreign.values, VALUES) and foreign.model == "t5-base"
    assert foreign.notes["rows_unused"] == 0


def test_of_twice_as_many_rows_the_first_half_is_what_an_encoder_decoder_reads(tmp_path: Path) -> None:
    changes = {"num_virtual_tokens": 2, "num_transformer_submodules": 2}
    foreign = read_foreign(peft_adapter(tmp_path / "adapter", VALUES[:4], **changes))
    assert torch.equal(foreign.values, VALUES[:2]) and foreign.notes["rows_unused"] == 2


def test_an_adapter_saved_as_bin(tmp_path: Path) -> None:
    folder = peft_adapter(tmp_path / "adapter", VALUES)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": VALUES}, folder / "adapter_model.bin")
    assert torch.equal(read_foreign(folder).values, VALUES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "a 'PREFIX_TUNING' adapter is no soft prompt"),
        ({"num_virtual_tokens": 3}, "5 rows, but adapter_config.json says 3 virtual tokens, 1 submodules"),
        ({"num_virtual_tokens": "5"}, "num_virtual_tokens must be a whole number, not '5'"),
        ({"token_dim": 8}, "width 4, but adapter_config.json says 8"),
    ],
)
def test_adapters_that_do_not_fit_their_configuration(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = peft_adapter(tmp_path / "adapter", VALUES, **changes)
    with pytest.raises(InputError, match=message):
        read_foreign(folder)


def test_damaged_adapters(tmp_path: Path) -> None:
    folder = peft_adapter(tmp_path / "adapter", VALUES)
    save_file({"lora": VALUES}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"holds \['lora'\], not 'prompt_embeddings' alone"):
        read_foreign(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: cannot be read"):
        read_foreign(folder)
    for content in ("{", "[]", "{}"):
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(InputError, match="adapter_config.json: not (well-formed json|the config)"):
            read_foreign(folder)
