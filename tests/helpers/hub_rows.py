"""A folder in the hub's layout with made-up rows in the schemas of GLUE and SET2."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = "the a man woman dog cat house city book film good bad red small reads sees gave".split()
PAIR = ("sentence1", "sentence2")
NLI = ("premise", "hypothesis")
# Folder, text columns, label values (a number of classes, "score", or the words themselves), and
# the split that is scored.
SETS: tuple[tuple[str, tuple[str, ...], int | str | Sequence[str], str], ...] = (
    ("nyu-mll/glue/cola", ("sentence",), 2, "validation"),
    ("nyu-mll/glue/mnli", NLI, 3, "validation_matched"),
    ("nyu-mll/glue/mrpc", PAIR, 2, "validation"),
    ("nyu-mll/glue/qnli", ("question", "sentence"), 2, "validation"),
    ("nyu-mll/glue/qqp", ("question1", "question2"), 2, "validation"),
    ("nyu-mll/glue/rte", PAIR, 2, "validation"),
    ("nyu-mll/glue/sst2", ("sentence",), 2, "validation"),
    ("nyu-mll/glue/stsb", PAIR, "score", "validation"),
    ("stanfordnlp/imdb/plain_text", ("text",), 2, "test"),
    ("nyu-mll/multi_nli/default", NLI, 3, "validation_matched"),
    ("google-research-datasets/paws/labeled_final", PAIR, 2, "test"),
    ("allenai/scitail/tsv_format", NLI, ("entails", "neutral"), "test"),
    ("fancyzhx/yelp_polarity/plain_text", ("text",), 2, "test"),
)


def write_hub(root: Path, rows: int = 60) -> Path:
    """Write `rows` rows of every data set's splits under `root`, and return it."""
    import pyarrow as pa
    from pyarrow import parquet

    rng = random.Random(0)
    for folder, columns, labels, scored in SETS:
        (root / folder).mkdir(parents=True)
        for split in ("train", scored):
            table: dict[str, Any] = {
                name: [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(rows)] for name in columns
            }
            if labels == "score":
                scores = [rng.randint(0, 25) / 5 for _ in range(rows)]
                table["label"] = pa.array(scores, pa.float32())
            elif isinstance(labels, int):
                table["label"] = pa.array([i % labels for i in range(rows)], pa.int64())
            else:
                table["label"] = [labels[i % len(labels)] for i in range(rows)]
            table["idx"] = pa.array(range(rows), pa.int32())
            path = root / folder / f"{split}-00000-of-00001.parquet"
            parquet.write_table(pa.table(table), path)
    return root
