"""The hub: whether it answers, asked once, so that a machine without a network is told within seconds; and uploads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from compt_fast.utils.errors import InputError, shown

SECONDS = 4.0
"""To wait for an answer, the name's resolution included; the hub's own clients try for half a minute and more."""


@contextmanager
def asked() -> Iterator[str]:
    """Within, huggingface_hub and datasets ask the hub, or, where it does not answer, take what is in their cache.

    Gives why the hub cannot be reached, "" where it can.
    """
    from huggingface_hub import constants

    why = unreachable()
    # datasets has a copy of the setting, made at its import
    places: list[Any] = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places if why else ():
        place.HF_HUB_OFFLINE = True
    try:
        yield why
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was


@cache
def unreachable() -> str:
    """Why the hub cannot be reached from this process; "" where it can."""
    from huggingface_hub import constants

    if getattr(constants, "HF_HUB_OFFLINE", False):
        return "HF_HUB_OFFLINE is set"
    said: list[str] = []
    # A thread, as nothing bounds the resolution of a name.
    asking = threading.Thread(target=lambda: said.append(_ask(constants.ENDPOINT)), daemon=True)
    asking.start()
    asking.join(SECONDS)
    return said[0] if said else f"{constants.ENDPOINT} does not answer within {SECONDS:.0f} s"


def _ask(endpoint: str) -> str:
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=SECONDS)
    except Exception as error:  # the kinds differ with the client that huggingface_hub is built on
        return f"{endpoint} cannot be reached ({error})"
    return ""


class Repository:
    """A repository of models on the hub that folders are uploaded to."""

    def __init__(self, name: str) -> None:
        """Raises `InputError` for what no repository can be called, and where nobody is logged in."""
        from huggingface_hub import get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise InputError(f"--push {shown(name)}: {error}") from None
        if not get_token():
            raise InputError(f"--push {name}: no token of the hub: log in with `hf auth login`, or set HF_TOKEN")
        self.name = name

    def upload(self, folder: Path) -> str:
        """Put the content of `folder` there, in one commit, and say where it is; the repository is made if need be.

        Raises `InputError` where the hub does not take it.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            self.name = api.create_repo(self.name, exist_ok=True).repo_id
            return str(api.upload_folder(folder_path=folder, repo_id=self.name))
        except Exception as error:  # unrelated kinds: rights, a name, the network
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"--push {self.name}: the hub did not take {folder}: {why}") from None
