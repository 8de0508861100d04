"""ReCoRD (SuperGLUE): which entity of a passage stands at the placeholder of a query; a row a candidate.

Published rows have a list of entities and one of answers. Here each entity is a row with the label whether it is an
answer, as MultiRC has its answers, because a generated entity would be a label of its row alone. The passage's
highlights become sentences, as in T5's preprocessing.
"""

from __future__ import annotations

import re
from typing import Any

from compt_fast.tasks.formats import Columns
from compt_fast.tasks.readings import Reading, cell, number_in
from compt_fast.utils.errors import InputError, shown


def without_highlights(text: object) -> object:
    """A passage in which highlights are sentences like any other; what is no text stays as it is."""
    if not isinstance(text, str):
        return text
    return re.sub(r"\n@highlight\n", ". ", re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text))


def _texts(columns: Columns, name: str, row: int) -> list[str]:
    """The texts in the list that a row has in the column `name`."""
    texts: list[str] = cell(columns, name, row, list, f"a list of {name}")
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{columns.where(row)}: column {name!r} holds {shown(texts)}; all of it must be texts")
    return texts


def read(columns: Columns) -> Columns:
    """A row for each of the different entities of a row, with the columns `query`, `entity`, `passage`, `query_id`
    and `label`; all keep the place of the row that they are from.
    """
    passages = [*map(without_highlights, columns.values["passage"])]
    queries = list(columns.values["query"])
    made: dict[str, list[Any]] = {name: [] for name in ("query", "entity", "passage", "query_id", "label")}
    sources: list[int] = []
    for row in range(columns.size):
        entities = list(dict.fromkeys(_texts(columns, "entities", row)))
        answers = set(_texts(columns, "answers", row))
        ids = "-".join(str(number_in(columns, "idx", key, row)) for key in ("passage", "query"))
        made["entity"] += entities
        made["label"] += [int(entity in answers) for entity in entities]
        for name, value in (("query", queries[row]), ("passage", passages[row]), ("query_id", ids)):
            made[name] += [value] * len(entities)
        sources += [row] * len(entities)
    return Columns(made, lambda row: columns.where(sources[row]), columns.origin, len(sources))


ENTRY = Reading(("query", "passage", "entities", "answers", "idx"), read)
