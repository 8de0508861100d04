"""Where prompts and texts stand, against rows that are put together one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.ops.placement import Placement
from compt_fast.ops.varlen import cu_seqlens_of

PROMPTS = [2, 0, 3]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6), st.booleans())
def test_packed_rows(rows: list[tuple[int, int]], prepend: bool) -> None:
    slots, texts = (torch.tensor(part) for part in zip(*rows, strict=True))
    at = Placement.packed(cu_seqlens_of(PROMPTS), slots, texts, prepend)
    places: list[tuple[str, int]] = []
    text_token = 0
    for slot, length in rows:
        prompt = [("prompt", sum(PROMPTS[:slot]) + i) for i in range(PROMPTS[slot])]
        text = [("text", text_token + i) for i in range(length)]
        text_token += length
        places += [*prompt, *text] if prepend else [*text, *prompt]
    assert [("prompt", row) for row in at.prompt_rows.tolist()] == [places[i] for i in at.prompt_places.tolist()]
    assert [places[i] for i in at.text_places.tolist()] == [("text", i) for i in range(text_token)]
    assert at.cu_seqlens.tolist() == cu_seqlens_of([PROMPTS[slot] + length for slot, length in rows]).tolist()


@pytest.mark.parametrize("prepend", [True, False])
def test_padded_rows_begin_a_width_apart(prepend: bool) -> None:
    packed = Placement.packed(cu_seqlens_of([2, 1]), torch.tensor([0, 1, 0]), torch.tensor([1, 4, 2]), prepend)
    padded, width = packed.padded(), 5
    for name in ("prompt_places", "text_places"):
        for place, moved in zip(getattr(packed, name).tolist(), getattr(padded, name).tolist(), strict=True):
            row = sum(place >= end for end in packed.cu_seqlens.tolist()[1:])
            assert moved == row * width + place - int(packed.cu_seqlens[row])
    assert torch.equal(packed.prompt_rows, padded.prompt_rows)
