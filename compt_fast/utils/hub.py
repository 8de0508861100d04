"""Whether the hub answers: asked once, so that a machine without a network is told within seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

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
