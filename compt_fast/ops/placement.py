"""Which places of the encoder's input are prompt, and which are text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from compt_fast.ops.varlen import cu_seqlens_of, ranges


@dataclass(frozen=True)
class Placement:
    """Where B rows have their prompts and their texts; all tensors are int64 on the host.

    A row is its prompt and its text, the prompt first with `prepend`; either may be empty. Rows stand back to back,
    or, with a `width`, begin that many places apart. `prompt_starts` (B,) is where each row's prompt begins among
    the rows of all slots' prompts.
    """

    prompt_starts: Tensor
    prompt_lengths: Tensor
    text_lengths: Tensor
    prepend: bool
    width: int | None = None

    @classmethod
    def packed(cls, prompt_cu_seqlens: Tensor, slots: Tensor, text_lengths: Tensor, prepend: bool) -> Placement:
        """Of rows that stand back to back, each with the prompt of slot `slots[b]`, of S whose cumulative lengths are
        `prompt_cu_seqlens` (S+1,), and `text_lengths[b]` tokens of text.
        """
        return cls(prompt_cu_seqlens[:-1][slots], prompt_cu_seqlens.diff()[slots], text_lengths, prepend)

    def padded(self) -> Placement:
        """The same rows, each padded behind to the longest one's length."""
        return replace(self, width=int(self.lengths.max()))

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each row: (B,)."""
        return self.text_lengths + self.prompt_lengths

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """The rows' cumulative lengths: (B+1,)."""
        return cu_seqlens_of(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """Where each row begins: (B,)."""
        return self.cu_seqlens[:-1] if self.width is None else torch.arange(len(self.lengths)) * self.width

    @cached_property
    def prompt_places(self) -> Tensor:
        """The places of all prompt tokens, row after row: (n,)."""
        return ranges(self.starts if self.prepend else self.starts + self.text_lengths, self.prompt_lengths)

    @cached_property
    def text_places(self) -> Tensor:
        """The places of all text tokens, row after row: (N,)."""
        return ranges(self.starts + self.prompt_lengths if self.prepend else self.starts, self.text_lengths)

    @cached_property
    def prompt_rows(self) -> Tensor:
        """Which row of all slots' prompts stands at each of `prompt_places`: (n,)."""
        return ranges(self.prompt_starts, self.prompt_lengths)
