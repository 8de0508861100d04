"""Real data, which lies in no repository: $COMPT_FAST_SHARED, else the folder `shared` beside this one.

It may hold `hub` (rows in the hub's layout), `t5-tokenizer` and `t5-base-prompts` (trained ones).
"""

from __future__ import annotations

import os
from pathlib import Path

NAMED = os.environ.get("COMPT_FAST_SHARED")
SHARED = Path(NAMED) if NAMED else Path(__file__).resolve().parents[3] / "shared"


def real(name: str) -> Path | None:
    """The folder `name` of the real data, or None where it is not.

    A folder that the variable names has to be there, or tests would pass on made rows unnoticed.
    """
    assert not NAMED or SHARED.is_dir(), f"COMPT_FAST_SHARED is {NAMED!r}, and there is no such folder"
    folder = SHARED / name
    return folder if folder.is_dir() else None
