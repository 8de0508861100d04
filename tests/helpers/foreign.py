"""Prompts of other programs: four real ones of t5-base where they are, else made in their form."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers.shared import real

TASKS = ("mnli", "qnli", "qqp", "sst2")


def t5_base_prompts(folder: Path) -> dict[str, Path]:
    """A `.pt` file (100, 768) a task: trained ones where they are, or drawn ones in `folder`."""
    if trained := real("t5-base-prompts"):
        return {task: trained / f"{task}_prompt.pt" for task in TASKS}
    generator = torch.Generator().manual_seed(0)
    paths = {task: folder / f"{task}_prompt.pt" for task in TASKS}
    for k, path in enumerate(paths.values()):
        values = torch.randn(100, 768, generator=generator) * (10 + 7 * k)
        torch.save(torch.nn.Parameter(values), path)
    return paths


def peft_adapter(folder: Path, values: torch.Tensor, **changes: object) -> Path:
    """A prompt-tuning adapter as PEFT saves it."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": "t5-base",
        "num_virtual_tokens": len(values),
        "num_transformer_submodules": 1,
        "token_dim": values.shape[1],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    save_file({"prompt_embeddings": values.contiguous()}, folder / "adapter_model.safetensors")
    return folder
