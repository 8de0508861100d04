"""Train prompts for a task of your own on rows in memory, look at the scores, and answer new rows.

    python examples/fit_and_predict.py [FOLDER] [STEPS]

With the embedded trunk, offline, in half a minute; `model="t5-base"` in its place reads real English.
"""

from __future__ import annotations

import random
import sys

import pandas as pd

import compt_fast

TASK = {"name": "mood", "fields": ["text"], "labels": ["negative", "positive"], "metric": ["accuracy", "f1"]}
WORDS = {"negative": ["awful", "dull", "bad", "poor"], "positive": ["good", "lovely", "great", "fine"]}


def rows(count: int, seed: int) -> pd.DataFrame:
    """Sentences of a mood, as your data may be: a frame with the columns `text` and `label`."""
    rng = random.Random(seed)
    labels = [rng.choice(TASK["labels"]) for _ in range(count)]
    texts = [f"the {rng.choice(['film', 'book', 'city'])} is {rng.choice(WORDS[label])}" for label in labels]
    return pd.DataFrame({"text": texts, "label": labels})


def main(folder: str | None = None, steps: str = "200") -> None:
    """Train, and predict."""
    fitted = compt_fast.fit(
        {"mood": {"train": rows(200, seed=0), "validation": rows(50, seed=1)}},
        task_file=TASK,
        method=["spp", "pt"],
        shots=16,
        steps=steps,
        out=folder,
    )
    print(fitted.scores)
    predictor = fitted.predictor("spp-n3-k16-s0")
    for answer in predictor.predict([{"text": "the film is great"}, {"text": "the book is dull"}], scores=True):
        print(answer.label, answer.scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
