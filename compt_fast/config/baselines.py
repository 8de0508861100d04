"""The baselines: methods that change the trunk's weights or add some, a line of `BASELINES` each.

`compt_fast.baselines.methods` has a file for each way to do so. Those that end in `-m` train one model for all tasks,
as in the tables of ComPT, the others one a task. Rates and sizes are those of docs/baselines.md.
"""

from __future__ import annotations

from typing import Any

from compt_fast.config.compositions import NO_PROMPT
from compt_fast.config.presets import INIT_RANGE, PRESETS, Preset

REDUCED, REDUCTION = -1, 32  # "d_model / 32", the bottleneck of adapters in the tables of ATTEMPT and ComPT
_NO_PROMPT: dict[str, Any] = {"prompt_length": 0, "init": "uniform", "init_range": INIT_RANGE}


def _baseline(weights: str, lr: float, *, apart: bool = True, **more: Any) -> Preset:
    return Preset(NO_PROMPT, False, _NO_PROMPT | {"lr_weights": lr} | more, apart=apart, weights=weights)


BASELINES: dict[str, Preset] = {
    "finetune": _baseline("finetune", 3e-4),
    "finetune-m": _baseline("finetune", 3e-4, apart=False),
    "bitfit": _baseline("bitfit", 3e-4),
    "adapter": _baseline("adapter", 3e-4, bottleneck=REDUCED),
    "adapter-m": _baseline("adapter", 3e-4, apart=False, bottleneck=REDUCED),
    "lora": _baseline("lora", 5e-4, bottleneck=8),
    "ia3": _baseline("ia3", 3e-3),
    "prefix": _baseline("prefix", 1e-2, prompt_length=20),
    "p-tuning": _baseline("p-tuning", 1e-3, prompt_length=20),
    "hyperformer-m": _baseline("hyperformer", 3e-4, apart=False, bottleneck=REDUCED),
    "hyperdecoder-m": _baseline("hyperdecoder", 3e-4, apart=False, bottleneck=64),
}

METHODS: dict[str, Preset] = PRESETS | BASELINES
"""All that `--method` takes."""
