"""How well a trunk knows its skills under its own instructions, on sentences it never saw."""

from __future__ import annotations

from random import Random

import torch
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from compt_fast.mini import styles
from compt_fast.mini.stream import Encoder, collate, pair_example


@torch.no_grad()
def answers(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, sources: list[str], batch_size: int = 128
) -> list[str]:
    """Greedy answers of at most four tokens."""
    encoder, texts = Encoder(tokenizer), []
    model.eval()
    for start in range(0, len(sources), batch_size):
        batch = collate([(source, "") for source in sources[start : start + batch_size]], encoder)
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        texts += tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=4), skip_special_tokens=True)
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
        predicted = answers(model, tokenizer, [source for source, _ in examples])
        right = sum(text == target for text, (_, target) in zip(predicted, examples, strict=True))
        scores[name] = round(100 * right / size, 1)
    return scores


@torch.no_grad()
def pair_loss(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, size: int) -> float:
    """Loss a token of filling one sentence's gaps from another; where it turns up the learning rate is too high."""
    rng = Random("report pairs")
    batch = collate([pair_example("validation", rng) for _ in range(size)], Encoder(tokenizer))
    return round(float(model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss), 4)
