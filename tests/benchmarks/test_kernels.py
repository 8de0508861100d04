"""What single kernels are held against on a GPU, tried where Triton's interpreter runs them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.kernels import Padded, apart, attention_error, drawn_rows, update_error
from compt_fast.kernels import adamw
from compt_fast.ops.attention import attend


def test_the_kernels_are_near_what_they_are_held_against(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "PARTS", 4)  # less for the interpreter to do
    assert update_error() < 1e-5
    assert max(attention_error(torch.float32, rows=2).values()) < 1e-5


def test_padded_rows_attend_as_packed_ones_do() -> None:
    qkv, layout = drawn_rows(4, 2, 8, torch.float32)
    padded = Padded.of(qkv, layout)
    assert apart(padded.packed(padded.forward()), attend(*qkv.unbind(1), layout)) < 1e-5
