"""Exports: trained prompts in the formats of other software, one a file; `--format new-format` is `new_format.py`.

To add a format, add such a file with `ENTRY = Export(...)`. The first line of the file's docstring is what `--help`
says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from compt_fast.prediction.predictor import Predictor

ORDER: tuple[str, ...] = ("torchscript",)


@dataclass(frozen=True)
class Export:
    """A format.

    `write(predictor, folder)` fills a new, empty folder with all that the format's own software needs to answer the
    predictor's tasks; it takes the place of what was there when it is whole. Raises `InputError` for prompts that the
    format cannot hold. `packages` are those, beyond what compt_fast itself needs, without which it cannot be written.
    """

    write: Callable[[Predictor, Path], None]
    packages: tuple[str, ...] = ()


EXPORTS: Registry[Export] = Registry(__name__)
