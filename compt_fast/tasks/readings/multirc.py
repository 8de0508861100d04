"""MultiRC (SuperGLUE): an answer to a question about a paragraph is right or wrong; a question has several answers.

The paragraph's markup goes, as in T5's preprocessing, and the ids of paragraph and question become one column.
"""

from __future__ import annotations

import re

from compt_fast.tasks.formats import Columns
from compt_fast.tasks.readings import Reading, number_in, with_columns


def without_markup(text: object) -> object:
    """A text with a space for each <br>, and without <b> and </b>; what is no text stays as it is."""
    return re.sub("</?b>", "", text.replace("<br>", " ")) if isinstance(text, str) else text


def read(columns: Columns) -> Columns:
    """Adds `question_id`, and cleans `question`, `answer` and `paragraph`."""
    texts = {name: [*map(without_markup, columns.values[name])] for name in ("question", "answer", "paragraph")}
    ids = [
        "-".join(str(number_in(columns, "idx", key, row)) for key in ("paragraph", "question"))
        for row in range(columns.size)
    ]
    return with_columns(columns, **texts, question_id=ids)


ENTRY = Reading(("question", "answer", "paragraph", "idx"), read)
