"""Exports: trained prompts in the formats of other software, one a file; `--format new-format` is `new_format.py`.

To add a format, add such a file with `ENTRY = Export(...)`. The first line of the file's docstring is what `--help`
says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from compt_fast.models.families import T5
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.files import clean, new_tree, write_json
from compt_fast.utils.inputs import check_type, read_object
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from compt_fast.models.api import Trunk
    from compt_fast.prediction.predictor import Predictor

ORDER = ("peft", "vocabulary", "torchscript")
RECORD = "export.json"
"""What an export consists of; so it is known, when another one takes its place, that nothing else lies there."""


@dataclass(frozen=True)
class Export:
    """A format.

    `write(predictor, folder)` fills a new, empty folder, which may hold folders of files, with all that the format's
    own software needs to answer the predictor's tasks. Raises `InputError` for prompts that the format cannot hold.
    `packages` are those, beyond what compt_fast itself needs, without which it cannot be written.
    """

    write: Callable[[Predictor, Path], None]
    packages: tuple[str, ...] = ()


EXPORTS: Registry[Export] = Registry(__name__)


def write_export(predictor: Predictor, name: str, folder: Path) -> list[Path]:
    """Write the prompts of a predictor in the format `name`, atomically, in the place of an export that is there.

    What exports to this folder that were killed have left beside it goes, unless another one is at work there.
    Returns the files, relative to the folder. Raises `InputError` for an unknown format, packages that are missing, a
    folder that holds something else or cannot be written, and prompts that the format cannot hold.
    """
    from compt_fast.utils.locks import at_work  # Windows, where `--help` only refuses, has none

    check_format(name)
    check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        leftovers = partial(clean, folder.parent, folder.name.__eq__, trees=True)
        with at_work(folder.parent, leftovers), new_tree(folder) as temporary:
            EXPORTS[name].write(predictor, temporary)
            files = sorted(_below(temporary))
            record = {"format": name, "tasks": list(predictor.prompts), "files": [str(file) for file in files]}
            write_json(temporary / RECORD, record)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return [*files, Path(RECORD)]


def check_format(name: str) -> None:
    """Raise `InputError` for an unknown format, and for one whose packages are missing."""
    if name not in EXPORTS:
        raise unknown("format", name, EXPORTS)
    if missing := [package for package in EXPORTS[name].packages if find_spec(package) is None]:
        raise InputError(f"--format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def check_family(trunk: Trunk, name: str) -> None:
    """Raise `InputError` where the format `name` is made of a T5's weights and `trunk` is of another family."""
    if trunk.family not in T5.classes():
        raise InputError(
            f"--format {name} holds the weights of a T5, and the trunk {trunk.name} is of the family {trunk.family}: "
            "take --format peft, which leaves the trunk as it is"
        )


def check_place(folder: Path) -> None:
    """Raise `InputError` where an export cannot take the place of what is there: a file, or files of others."""
    if folder.name in ("", ".."):
        raise InputError(f"{folder}: name a folder in it, which is made")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is a {'link' if folder.is_symlink() else 'file'}; name a folder, or a new one")
    own: list[str] = []
    if (folder / RECORD).is_file():
        own = read_object(folder / RECORD, "the record of an export").get("files", [])
        check_type(own, list, f"{folder / RECORD}: files")
    known = {RECORD, *map(str, own)}
    foreign = next((file for file in _below(folder) if str(file) not in known), None)
    if foreign is not None:
        raise InputError(f"{folder}: holds {foreign}, which no export wrote; move it away, or name another folder")


def _below(folder: Path) -> Iterator[Path]:
    """All that is no folder below a folder, which need not be there, relative to it."""
    return (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
