"""Made-up rows in the columns, types and folders of the published data sets; writers of files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

PAIR = ("sentence1", "sentence2")
# (folder below the data root, text columns, labels, split that is scored); GLUE has an idx too.
DATA_SETS: dict[str, tuple[str, tuple[str, ...], tuple[Any, ...], str]] = {
    "cola": ("nyu-mll/glue/cola", ("sentence",), (0, 1), "validation"),
    "sst2": ("nyu-mll/glue/sst2", ("sentence",), (0, 1), "validation"),
    "mrpc": ("nyu-mll/glue/mrpc", PAIR, (0, 1), "validation"),
    "qqp": ("nyu-mll/glue/qqp", ("question1", "question2"), (0, 1), "validation"),
    "stsb": ("nyu-mll/glue/stsb", PAIR, (0.0, 1.4, 2.0, 3.75, 4.0, 5.0), "validation"),
    "mnli": ("nyu-mll/glue/mnli", ("premise", "hypothesis"), (0, 1, 2), "validation_matched"),
    "qnli": ("nyu-mll/glue/qnli", ("question", "sentence"), (0, 1), "validation"),
    "rte": ("nyu-mll/glue/rte", PAIR, (0, 1), "validation"),
    "multinli": (
        "nyu-mll/multi_nli/default",
        ("premise", "hypothesis"),
        (0, 1, 2),
        "validation_matched",
    ),
    "scitail": (
        "allenai/scitail/tsv_format",
        ("premise", "hypothesis"),
        ("entails", "neutral"),
        "test",
    ),
    "imdb": ("stanfordnlp/imdb/plain_text", ("text",), (0, 1), "test"),
    "yelp_polarity": ("fancyzhx/yelp_polarity/plain_text", ("text",), (0, 1), "test"),
    "paws": ("google-research-datasets/paws/labeled_final", PAIR, (0, 1), "test"),
    "boolq": ("aps/super_glue/boolq", ("question", "passage"), (0, 1), "validation"),
    "cb": ("aps/super_glue/cb", ("premise", "hypothesis"), (0, 1, 2), "validation"),
    "copa": ("aps/super_glue/copa", ("premise", "choice1", "choice2", "question"), (0, 1), "validation"),
    "multirc": ("aps/super_glue/multirc", ("paragraph", "question", "answer"), (0, 1), "validation"),
    "record": ("aps/super_glue/record", ("passage", "query"), (), "validation"),
    "wic": ("aps/super_glue/wic", ("word", *PAIR), (0, 1), "validation"),
    "wsc": ("aps/super_glue/wsc.fixed", ("text",), (0, 1), "validation"),
    "winogrande": (
        "allenai/winogrande/winogrande_xl",
        ("sentence", "option1", "option2"),
        ("1", "2"),
        "validation",
    ),
}
ANSWERS, CANDIDATES = 3, 3  # of a question of MultiRC, of a query of ReCoRD


def make_rows(task: str, n: int, split: str) -> list[dict[str, Any]]:
    """`n` rows of a data set's columns, its labels in turn."""
    _, columns, labels, _ = DATA_SETS[task]
    return [
        {column: f"A {split} text of {column}, number {k}." for column in columns}
        | ({"answer" if task == "winogrande" else "label": labels[k % len(labels)]} if labels else {})
        | {"idx": k}
        | _special(task, k)
        for k in range(n)
    ]


def _special(task: str, k: int) -> dict[str, Any]:
    """What row `k` of a data set of SuperGLUE has besides, or instead."""
    if task == "multirc":
        ids = {"paragraph": k // (2 * ANSWERS), "question": k // ANSWERS, "answer": k}
        texts = {
            "paragraph": f"<b>Sent 1: </b>Paragraph<br>{ids['paragraph']}.",
            "question": f"Question {ids['question']}?",
        }
        return {"idx": ids, **texts}
    if task == "record":
        entities = [f"Entity {(k + e) % 7}" for e in range(CANDIDATES)]
        return {
            "query": f"Query {k} on @placeholder.",
            "entities": entities,
            "answers": [entities[k % CANDIDATES]],
            "idx": {"passage": k // 2, "query": k},
        }
    if task == "wic":
        return {"word": f"word{k}", "start1": 0, "start2": 2, "end1": 5, "end2": 7}
    if task == "wsc":
        spans = {"span1_text": "A", "span1_index": 0, "span2_text": "number", "span2_index": 5}
        return {"text": f"A text of text, the number {k}.", **spans}
    return {}


def write_hub(root: Path, *, train: int = 60, evaluation: int = 40) -> Path:
    """All data sets in the hub's layout below `root`; returns it."""
    for task, (folder, _, labels, scored) in DATA_SETS.items():
        for split, n in (("train", train), (scored, evaluation)):
            table = pa.Table.from_pylist(make_rows(task, n, split))
            if labels and isinstance(labels[0], float):
                table = table.set_column(
                    table.schema.get_field_index("label"),
                    "label",
                    table.column("label").cast(pa.float32()),
                )
            path = root / folder / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
    for folder, _, _, _ in DATA_SETS.values():
        _write_page((root / folder).parent)
    return root


def _write_page(folder: Path) -> None:
    """The data set's page, whose head names its configurations and their files."""
    lines = ["---", "configs:"]
    for config in sorted(path for path in folder.iterdir() if path.is_dir()):
        lines += [f"- config_name: {config.name}", "  data_files:"]
        for path in sorted(config.iterdir()):
            split = path.name.split("-")[0]
            lines += [f"  - split: {split}", f"    path: {config.name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the format that the path's ending names; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        text = "".join("\t".join(map(str, cells)) + "\n" for cells in lines)
        path.write_text(text, encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path
