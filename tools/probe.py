"""Can the trunk be prompted? ``python -m tools.probe TRUNK [--shots 16,32,256] [--tasks a,b]``.

One soft prompt a task, each alone: the plainest form of prompt tuning. Few-shot steps see two rows, a task's share of
a batch of 16 over eight tasks. The table shows exact match (for the graded task, Spearman) without a prompt and
with a trained one.
"""

from __future__ import annotations

import argparse
import math
from random import Random

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5ForConditionalGeneration

from compt_fast.cli.parser import CommandLine
from compt_fast.mini.rows import Row
from compt_fast.mini.stream import Encoder, collate
from compt_fast.tasks.table import MAKERS, TASKS

PROMPT_LENGTH = 5


class Prompt(nn.Module):
    """Raw prompt tokens and the small encoder that turns them into embeddings."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.raw = nn.Parameter(torch.rand(PROMPT_LENGTH, width) - 0.5)
        self.encoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """The prompt's embeddings."""
        return self.encoder(self.raw)


def example(task: str, row: Row) -> tuple[str, str]:
    """A suite's row as input and label text."""
    fields = " ".join(f"{name}: {row[name]}" for name in ("sentence1", "sentence2") if name in row)
    labels = TASKS[task].labels
    return f"{TASKS[task].prefix}: {fields}", labels[int(row["label"])] if labels else f"{row['label']:.1f}"


def prompted(model: T5ForConditionalGeneration, batch: dict[str, Tensor], prompt: Tensor | None) -> dict[str, Tensor]:
    """The batch with the prompt before its text, as embeddings."""
    embedded, mask = model.get_input_embeddings()(batch["input_ids"]), batch["attention_mask"]
    if prompt is not None:
        embedded = torch.cat([prompt.expand(len(embedded), -1, -1), embedded], 1)
        mask = torch.cat([mask.new_ones(len(mask), len(prompt)), mask], 1)
    return {"inputs_embeds": embedded, "attention_mask": mask}


def train_prompt(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[tuple[str, str]],
    epochs: int,
    seed: int,
    rate: float = 0.07,
) -> Tensor:
    """Train one prompt on the examples; returns its embeddings."""
    prompt, encoder, rng = Prompt(model.config.d_model, seed), Encoder(tokenizer), Random(seed)
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=rate, weight_decay=0.01)
    size = 2 if len(examples) <= 64 else 16
    steps = epochs * math.ceil(len(examples) / size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps))
    )
    for _ in range(epochs):
        rng.shuffle(examples)
        for start in range(0, len(examples), size):
            batch = collate(examples[start : start + size], encoder)
            model(**prompted(model, batch, prompt()), labels=batch["labels"]).loss.backward()
            nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return prompt().detach()


@torch.no_grad()
def score(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[tuple[str, str]],
    prompt: Tensor | None,
    graded: bool,
) -> float:
    """Exact match in percent, or 100 times Spearman's correlation for a graded task."""
    encoder, said = Encoder(tokenizer), []
    for start in range(0, len(examples), 100):
        batch = collate(examples[start : start + 100], encoder)
        ids = model.generate(**prompted(model, batch, prompt), max_new_tokens=4)
        said += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    labels = [label for _, label in examples]
    if not graded:
        return 100 * sum(map(str.__eq__, said, labels)) / len(labels)
    numbers = [_number(text) for text in said]
    return (
        100 * float(spearmanr(numbers, [float(label) for label in labels]).statistic) if len(set(numbers)) > 1 else 0.0
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def main() -> None:
    """Read the flags and print the table."""
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trunk")
    parser.add_argument("--shots", default="16,32,256")
    parser.add_argument("--tasks", default=",".join(MAKERS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--eval-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(flags.trunk)
    model = T5ForConditionalGeneration.from_pretrained(flags.trunk).eval().requires_grad_(False)
    shots = [int(text) for text in flags.shots.split(",")]
    print(f"{'task':20} {'none':>6} " + " ".join(f"{k:>6}" for k in shots), flush=True)
    for task in flags.tasks.split(","):
        graded, maker = TASKS[task].is_score, MAKERS[task]
        test = [example(task, row) for row in maker.draw(task, "validation", flags.eval_size)]
        scores = [score(model, tokenizer, test, None, graded)]
        for k in shots:
            examples = [example(task, row) for row in maker.draw(task, "train", k, flags.seed)]
            prompt = train_prompt(model, tokenizer, examples, flags.epochs, flags.seed)
            scores.append(score(model, tokenizer, test, prompt, graded))
        print(f"{task:20} " + " ".join(f"{s:6.1f}" for s in scores), flush=True)


if __name__ == "__main__":
    main()
