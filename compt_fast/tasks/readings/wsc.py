"""WSC (SuperGLUE): whether a pronoun means a noun; T5 marks both in the text, "* noun *" and "# pronoun #"."""

from __future__ import annotations

import re

from compt_fast.tasks.formats import Columns
from compt_fast.tasks.readings import Reading, cell, with_columns
from compt_fast.utils.errors import InputError, shown

MARKS = {"span1": "*", "span2": "#"}


def marked(text: str, span: str, index: int, mark: str) -> str:
    """`text` with `mark` on both sides of `span`, which begins at word `index`, from 0; words end at white space.

    Where the span does not stand there the text stays as it is, as T5's does: a few published spans are no part of
    their text.
    """
    words = [match.start() for match in re.finditer(r"\S+", text)]
    start = words[index] if index < len(words) else len(text)
    if not span or not text.startswith(span, start):
        return text
    return f"{text[:start]}{mark} {span} {mark}{text[start + len(span) :]}"


def _index(columns: Columns, span: str, row: int) -> int:
    """The word, from 0, at which a span begins; CSV writes it as a text."""
    value = columns.values[f"{span}_index"][row]
    if not re.fullmatch("[0-9]{1,6}", str(value).strip()):
        raise InputError(
            f"{columns.where(row)}: column '{span}_index' holds {shown(value)}; it must be the number of a word, from 0"
        )
    return int(value)


def read(columns: Columns) -> Columns:
    """Marks the two spans of each row in `text`."""
    texts = []
    for row in range(columns.size):
        text = cell(columns, "text", row, str, "a text")
        # The later span first: marks before a word would change its number.
        for span in sorted(MARKS, key=lambda name: _index(columns, name, row), reverse=True):
            said = cell(columns, f"{span}_text", row, str, "a text")
            text = marked(text, said, _index(columns, span, row), MARKS[span])
        texts.append(text)
    return with_columns(columns, text=texts)


ENTRY = Reading(("text", *(f"{span}_{part}" for span in MARKS for part in ("text", "index"))), read)
