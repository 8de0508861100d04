"""Pre-train the trunk: ``python -m tools.pretrain --out DIR [--minutes M | --examples N] [--resume]``.

The run can be killed at any time; ``--resume`` continues from the last checkpoint as if it had never stopped. At the
end (and at every checkpoint) ``DIR`` holds a folder ``trunk/`` that transformers loads as a T5.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from compt_fast.cli.parser import CommandLine
from compt_fast.mini.stream import Part, Stream
from compt_fast.utils.errors import InputError, exit_code
from tools import vocabulary
from tools.trunk_report import measured


@dataclass
class Recipe:
    """Everything that decides the trained weights, but for the machine."""

    steps: int
    batch_size: int = 192
    learning_rate: float = 5e-4
    warmup: int = 400
    decay_from: float = 0.5  # share of the steps after which the rate falls, linearly
    seed: int = 0
    d_model: int = 192
    d_ff: int = 512
    heads: int = 6
    encoder_layers: int = 4
    decoder_layers: int = 2

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        decay_steps = self.steps * (1 - self.decay_from)
        decay = min(1.0, (self.steps - step) / max(decay_steps, 1))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * max(decay, 0.02)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> T5ForConditionalGeneration:
    """An untrained T5 of the recipe's shape."""
    torch.manual_seed(recipe.seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=recipe.d_model,
        d_kv=recipe.d_model // recipe.heads,
        d_ff=recipe.d_ff,
        num_heads=recipe.heads,
        num_layers=recipe.encoder_layers,
        num_decoder_layers=recipe.decoder_layers,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config)


class Trainer:
    """The model, its optimizer and where the run stands."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
        self.recipe, self.tokenizer, self.out = recipe, tokenizer, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = new_model(recipe, tokenizer).to(self.device)
        # The fused attention cannot give the position bias a gradient and falls back to something slower than eager.
        self.model.set_attn_implementation("eager")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, fused=True, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step = 0
        self.seconds = 0.0

    def train_step(self, parts: list[Part], autocast: bool = True) -> float:
        """One optimizer step on a batch in parts; returns the loss per label token."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        tokens = sum(int((part["labels"] >= 0).sum()) for part in parts)
        total = 0.0
        for part in parts:
            batch = {name: tensor.to(self.device) for name, tensor in part.items()}
            share = int((part["labels"] >= 0).sum()) / tokens
            with torch.autocast(self.device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
                loss = self.model(**batch, use_cache=False).loss * share
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def save(self) -> None:
        """Write a checkpoint: a new folder, then one rename of the pointer to it."""
        folder = self.out / f"checkpoint-{self.step}"
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name, _ in self.model.named_parameters()]
        moments: dict[str, Tensor] = {}
        for i, state in self.optimizer.state_dict()["state"].items():
            moments |= {f"{key}/{names[i]}": value.contiguous() for key, value in state.items()}
        save_file(moments, folder / "optimizer.safetensors")
        weights = {name: parameter.detach().contiguous() for name, parameter in self.model.named_parameters()}
        save_file(weights, folder / "model.safetensors")
        state = {"recipe": asdict(self.recipe), "step": self.step, "seconds": self.seconds}
        (folder / "state.json").write_text(json.dumps(state, indent=1))
        pointer = self.out / "last.tmp"
        pointer.write_text(folder.name)
        os.replace(pointer, self.out / "last")
        for old in self.out.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old)

    def restore(self) -> None:
        """Take up the last checkpoint of the folder."""
        folder = self.out / (self.out / "last").read_text()
        state = json.loads((folder / "state.json").read_text())
        self.step, self.seconds = state["step"], state["seconds"]
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        optimizer = self.optimizer.state_dict()
        with torch.no_grad():
            for i, (name, parameter) in enumerate(self.model.named_parameters()):
                parameter.copy_(weights[name])
                optimizer["state"][i] = {key: moments[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        self.optimizer.load_state_dict(optimizer)

    def ship(self, folder: Path, report: dict[str, Any]) -> None:
        """Write the trunk as transformers loads it, with its report, replacing each file at once."""
        fresh = folder.with_name(folder.name + ".tmp")
        self.model.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        (fresh / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        for path in fresh.iterdir():
            os.replace(path, folder / path.name)
        fresh.rmdir()


def train(
    trainer: Trainer,
    until: int,
    checkpoint_every: int = 500,
    *,
    report_size: int = 100,
    workers: int = 1,
    autocast: bool = True,
) -> None:
    """Train up to step ``until``, printing the loss and writing checkpoints on the way."""
    recipe = trainer.recipe
    stream = Stream(trainer.tokenizer, recipe.batch_size, recipe.steps, recipe.seed)
    rest = Subset(stream, range(trainer.step, until))
    loader = DataLoader(rest, batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None)
    mean, last = 0.0, time.monotonic()
    for parts in loader:
        loss = trainer.train_step(parts, autocast)
        now = time.monotonic()
        trainer.seconds, last = trainer.seconds + now - last, now
        mean = loss if not mean else 0.98 * mean + 0.02 * loss
        if trainer.step % 50 == 0:
            speed = recipe.batch_size * trainer.step / trainer.seconds
            print(f"step {trainer.step}/{recipe.steps} loss {mean:.4f} examples/s {speed:.0f}", flush=True)
        if trainer.step % checkpoint_every == 0 or trainer.step == until:
            trainer.save()
            report = make_report(trainer, report_size * (5 if trainer.step == recipe.steps else 1))
            print(f"pair loss {report['pair_loss']} accuracies {json.dumps(report['skills'])}", flush=True)
            trainer.ship(trainer.out / "trunk", report)
            last = time.monotonic()


def make_report(trainer: Trainer, size: int) -> dict[str, Any]:
    """Each skill's accuracy under its own instruction on held-out sentences, and what it cost."""
    recipe = trainer.recipe
    return {
        **measured(trainer.model, trainer.tokenizer, size),
        "step": trainer.step,
        "examples": trainer.step * recipe.batch_size,
        "training_seconds": round(trainer.seconds),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "recipe": asdict(recipe),
    }


def steps_for(minutes: float, trainer: Trainer) -> int:
    """How many steps fit into the time, by a short trial on throw-away weights."""
    stream = Stream(trainer.tokenizer, trainer.recipe.batch_size, 1 << 20, seed=-1)
    batches = [stream[i] for i in range(12)]
    for batch in batches[:4]:
        trainer.train_step(batch)
    start = time.monotonic()
    for batch in batches[4:]:
        trainer.train_step(batch)
    return max(1, int(60 * minutes / ((time.monotonic() - start) / 8 * 1.05)))


def resumed(out: Path) -> Trainer:
    """The run of a folder as its last checkpoint left it; `InputError` for a folder without one."""
    try:
        last = out / (out / "last").read_text()
        recipe = Recipe(**json.loads((last / "state.json").read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--resume: {out} holds no checkpoint to go on from: {error}") from None
    trainer = Trainer(recipe, AutoTokenizer.from_pretrained(out / "tokenizer"), out)
    trainer.restore()
    return trainer


def begun(out: Path, examples: int | None, minutes: float, learning_rate: float) -> Trainer:
    """A new run in a new folder; `InputError` where that cannot be made."""
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; name a new folder, or go on with --resume") from None
    tokenizer = vocabulary.save(out / "tokenizer")
    recipe = Recipe(steps=1 << 20, learning_rate=learning_rate)
    recipe.steps = (
        -(-examples // recipe.batch_size) if examples else steps_for(minutes, Trainer(recipe, tokenizer, out))
    )
    return Trainer(recipe, tokenizer, out)


def main(argv: list[str] | None = None) -> int:
    """Read the flags and train; returns the exit code."""
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--minutes", type=float, default=75.0)
    size.add_argument("--examples", type=int)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--checkpoint-every", type=int, default=500, metavar="STEPS")
    parser.add_argument("--resume", action="store_true")
    flags = parser.parse_args(argv)

    def work() -> int:
        if flags.resume:
            trainer = resumed(flags.out)
        else:
            trainer = begun(flags.out, flags.examples, flags.minutes, flags.learning_rate)
        steps = trainer.recipe.steps
        print(f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {steps} steps", flush=True)
        train(trainer, steps, flags.checkpoint_every)
        return 0

    return exit_code(work, out_of_memory_hint=": close what else takes it, or train on another device")


if __name__ == "__main__":
    sys.exit(main())
