"""Bounds are checked, and each is a flag."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from compt_fast.serving.limits import LIMITS, Limits
from compt_fast.utils.errors import InputError


def test_every_bound_is_a_flag() -> None:
    assert list(LIMITS) == [field.name for field in fields(Limits)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_tokens": 0}, "--batch-tokens must be above 0, not 0"),
        ({"max_wait_ms": -1.0}, "--max-wait-ms must not be negative, not -1.0"),
        ({"timeout": 0.0}, "--timeout must be above 0, not 0.0"),
        ({"max_rows": 20, "queue_rows": 10}, "--max-rows 20 is above --queue-rows 10"),
    ],
)
def test_what_no_bound_can_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Limits(**given)
