"""What a job may spend: a time, or a number of training tokens."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from compt_fast.config.choices import NONE
from compt_fast.config.fields import Kind

_WRITTEN = re.compile(r"(?P<number>\d+(\.\d*)?(e\d+)?) ?(?P<unit>s|m|h|d|tokens)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Budget:
    """So many `seconds` of training and scoring, or `tokens` of training rows (prompts and labels included)."""

    seconds: float | None = None
    tokens: float | None = None

    @classmethod
    def of(cls, text: str | None) -> Budget:
        """What is written as `30m` or `2e6tokens`; without limit for None and 'none'. `ValueError` for another text."""
        if text is None or text == NONE:
            return cls()
        found = _WRITTEN.fullmatch(text)
        if found is None or not 0 < float(found["number"]) < math.inf:
            raise ValueError(text)
        number, unit = float(found["number"]), found["unit"]
        return cls(tokens=number) if unit == "tokens" else cls(seconds=number * _SECONDS[unit])

    def spent(self, seconds: float, tokens: int) -> bool:
        """Whether nothing of it is left."""
        return (self.seconds is not None and seconds >= self.seconds) or (
            self.tokens is not None and tokens >= self.tokens
        )


def _checked(text: str) -> str:
    Budget.of(text)
    return text


BUDGET = Kind(_checked, "a time (90s, 30m, 4h), training tokens (2e6tokens) or none")
