"""The TorchScript export beside the Python engine, in one process: the same rows, the same batches, by turns.

    python -m benchmarks.bench_torchscript                                    # embedded trunk, 300 rows a task
    python -m benchmarks.bench_torchscript --dtype bf16 --rows 40
    python -m tests.helpers.tiny_t5 DIR --size t5-base --tokenizer T5-TOKENIZER-DIR
    python -m benchmarks.bench_torchscript --trunk DIR --rows 4               # t5-base's shape

Every answer is compared first, string by string, and every score. Both then answer, and score the labels of, all rows.
Printed are the medians of the seconds and of the process's CPU seconds, and the export's share of the engine's. Fails
where that is more than 1.1 in CPU seconds. The machine must do nothing else for the seconds to say something.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from compt_fast.exports import EXPORTS
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.rows import Placed, checked, encoded
from compt_fast.tasks.text import encode_label, label_texts
from tests.helpers.made_predictors import MINI, made_predictor, mini_rows

MOST = 1.1
BATCH = 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Results = tuple[list[list[int]], torch.Tensor]


def exported(predictor: Predictor) -> Any:
    """The export, read back."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        EXPORTS["torchscript"].write(predictor, Path(folder))
        return torch.jit.load(f"{folder}/model.pt")


def batches(predictor: Predictor, rows: int) -> list[Batch]:
    """Rows of all tasks, sorted by length."""
    prompts, tokenizer = predictor.prompts, predictor.trunk.tokenizer
    ready = [checked(Placed(row, "row"), prompts, None) for row in mini_rows(rows)]
    read = sorted(encoded(ready, tokenizer), key=lambda row: len(row.input_ids))
    parts = (read[start : start + BATCH] for start in range(0, len(read), BATCH))
    return [make_batch([row.input_ids for row in part], None, [row.prompt.index for row in part]) for part in parts]


def engine(predictor: Predictor) -> Callable[[Batch], Results]:
    """Answers and scores of a batch by the Python engine."""
    trunk, prompts = predictor.trunk, list(predictor.prompts.values())
    labels = [
        [encode_label(text, trunk.tokenizer) for text in label_texts(one.task, one.text.label_mode or "")]
        for one in prompts
    ]
    targets = TargetPrompts.from_stacks([prompts[0].prompts.tensors["targets"]])
    longest = [max(map(len, own)) for own in labels]

    def answer(batch: Batch) -> Results:
        slots = batch.slots.tolist()
        scores = trunk.label_scores(targets, batch, [labels[slot] for slot in slots])
        answers = trunk.generate(targets, batch, max(longest))
        return [ids[: longest[slot]] for ids, slot in zip(answers, slots, strict=True)], torch.cat(scores)

    return answer


def script(model: Any) -> Callable[[Batch], Results]:
    """The same by the export, which encodes the rows twice, as the engine does."""

    def answer(batch: Batch) -> Results:
        rows = batch.input_ids, batch.input_cu_seqlens, batch.slots
        ids, ends = model.answer(*rows)
        return [own.tolist() for own in ids.split(ends.diff().tolist())], model.score(*rows)[0]

    return answer


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=MINI)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--rows", type=int, default=300, help="rows of each task")
    parser.add_argument("--repetitions", type=int, default=5)
    flags = parser.parse_args(argv)
    predictor = made_predictor(DTYPES[flags.dtype], trunk=flags.trunk)
    work = batches(predictor, flags.rows)
    ways = {"engine": engine(predictor), "export": script(exported(predictor))}
    with torch.inference_mode():
        both = [[way(batch) for batch in work] for way in ways.values()]
        wrong = sum(a != b for one, other in zip(*both, strict=True) for a, b in zip(one[0], other[0], strict=True))
        apart = max(float((one[1] - other[1]).abs().max()) for one, other in zip(*both, strict=True))
        rows = sum(batch.rows for batch in work)
        print(f"{rows} rows, {flags.dtype}: {wrong} answers differ, scores by at most {apart:.2g}")
        ways["export"](work[0])  # TorchScript has compiled what it saw in its first two calls
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(flags.repetitions):
            for name, way in ways.items():
                start = time.perf_counter(), time.process_time()
                for batch in work:
                    way(batch)
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: [statistics.median(of) for of in zip(*times, strict=True)] for name, times in taken.items()}
    for name, (seconds, cpu) in medians.items():
        print(f"{name}  {seconds:8.2f} s  {cpu:8.2f} s of CPU")
    shares = [own / other for own, other in zip(medians["export"], medians["engine"], strict=True)]
    print(f"export / engine: {shares[0]:.3f} in seconds, {shares[1]:.3f} in CPU seconds")
    return int(wrong > 0 or shares[1] > MOST)


if __name__ == "__main__":
    sys.exit(main())
