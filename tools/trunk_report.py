"""How well a trunk knows its skills under its own instructions, on sentences it never saw.

    python -m tools.trunk_report TRUNK [--size 500]

measures a trunk's folder anew and prints its `report.json` with the figures found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5ForConditionalGeneration

from compt_fast.cli.parser import CommandLine
from compt_fast.mini import styles
from compt_fast.mini.stream import Encoder, collate, pair_example
from compt_fast.utils.errors import InputError, exit_code


@torch.no_grad()
def answers(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, inputs: list[str], batch_size: int = 128
) -> list[str]:
    """Greedy answers of at most four tokens."""
    encoder, texts = Encoder(tokenizer), []
    model.eval()
    for start in range(0, len(inputs), batch_size):
        batch = collate([(text, "") for text in inputs[start : start + batch_size]], encoder)
        read = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        texts += tokenizer.batch_decode(model.generate(**read, max_new_tokens=4), skip_special_tokens=True)
    model.train()
    return [text.strip() for text in texts]


def skill_accuracies(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, size: int, seed: int = 0
) -> dict[str, float]:
    """Exact-match accuracy in percent of every skill, on ``size`` examples each that ``seed`` draws."""
    scores = {}
    for name in [*styles.STYLES, "toys"]:
        rng = Random(f"report {seed} {name}")
        if name == "toys":
            examples = [styles.toy_example("validation", rng) for _ in range(size)]
        else:
            examples = [styles.skill_example(name, "validation", rng) for _ in range(size)]
        predicted = answers(model, tokenizer, [text for text, _ in examples])
        right = sum(text == label for text, (_, label) in zip(predicted, examples, strict=True))
        scores[name] = round(100 * right / size, 1)
    return scores


@torch.no_grad()
def pair_loss(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, size: int) -> float:
    """Loss a token of filling one sentence's gaps from another; where it turns up the learning rate is too high."""
    rng = Random("report pairs")
    batch = collate([pair_example("validation", rng) for _ in range(size)], Encoder(tokenizer))
    return round(float(model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss), 4)


def measured(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, size: int) -> dict[str, Any]:
    """What `report.json` says of the weights, by so many (`held_out`) examples a skill."""
    return {
        "held_out": size,
        "skills": skill_accuracies(model, tokenizer, size),
        "pair_loss": pair_loss(model, tokenizer, size),
    }


def main(argv: list[str] | None = None) -> int:
    """Read the flags, measure and print; returns the exit code."""
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trunk", type=Path)
    parser.add_argument("--size", type=int, default=500, help="held-out examples a skill")
    flags = parser.parse_args(argv)

    def work() -> int:
        try:
            known = json.loads((flags.trunk / "report.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{flags.trunk}: no trunk with a report.json: {error}") from None
        model = T5ForConditionalGeneration.from_pretrained(flags.trunk)
        found = measured(model, AutoTokenizer.from_pretrained(flags.trunk), flags.size)
        print(json.dumps(found | {key: known[key] for key in known if key not in found}, indent=1))
        return 0

    return exit_code(work, out_of_memory_hint=": close what else takes it")


if __name__ == "__main__":
    sys.exit(main())
