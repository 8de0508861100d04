"""Names that become files and folders: one grammar for those of runs, tasks and stored prompts."""

from __future__ import annotations

import os
import re

from compt_fast.utils.errors import InputError

GRAMMAR = re.compile(r"\w[\w.+-]*")
LONGEST = 240  # bytes: file systems take 255, and what is being written has a dot and 13 more behind its name


def is_name(name: object) -> bool:
    """Whether `name` can stand in a path as one part of it, and leads nowhere else."""
    return isinstance(name, str) and GRAMMAR.fullmatch(name) is not None and len(os.fsencode(name)) <= LONGEST


def check_name(name: object, what: str) -> str:
    """`name`, where it is one; else `InputError`, in which `what` says whose name it should be ("a run")."""
    if isinstance(name, str) and is_name(name):
        return name
    if isinstance(name, str) and GRAMMAR.fullmatch(name):
        raise InputError(f"{name!r} is too long to be the name of {what}: its files take at most {LONGEST} bytes")
    raise InputError(f"{name!r} is no name of {what}: letters, digits and any of _ . + -, the first none of . + -")
