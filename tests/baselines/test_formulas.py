"""Adapters, HyperFormer and Hyperdecoders against their formulas in float64, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast.models.batch import Batch
from compt_fast.models.engines.reference import ReferenceTrunk
from tests.baselines.conftest import Make, perturb, targets


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def adapted(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    down = x @ p[f"{name}.down.weight"].T + p[f"{name}.down.bias"]
    return x + gelu(down) @ p[f"{name}.up.weight"].T + p[f"{name}.up.bias"]


def affine(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def normed(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def hyperformed(p: dict[str, Tensor], stack: int, layer: int, place: int, task: int, x: Tensor) -> Tensor:
    """One row's sublayer output x (L, d) behind a made adapter."""
    name, d = f"networks.{stack}", x.shape[1]
    z = torch.cat([p["tasks.weight"][task], p[f"{name}.layers.weight"][layer], p[f"{name}.places.weight"][place]])
    e = affine(p, f"{name}.project.2", affine(p, f"{name}.project.0", z).clamp(min=0))
    e = normed(e, 1e-6) * p[f"{name}.norm.weight"] + p[f"{name}.norm.bias"]
    down, up = affine(p, f"{name}.down", e).view(-1, d), affine(p, f"{name}.up", e).view(d, -1)
    middle = gelu(x @ down.T + affine(p, f"{name}.down_bias", e))
    out = middle @ up.T + affine(p, f"{name}.up_bias", e)
    return x + affine(p, f"{name}.gain", e) * normed(out, 1e-5) + affine(p, f"{name}.shift", e)


def hyperdecoded(p: dict[str, Tensor], layer: int, mean: Tensor, x: Tensor) -> Tensor:
    """What a made adapter adds to one row's sublayer of input x (L, d)."""
    d = x.shape[1]
    r = affine(p, "generator.mlp.2", affine(p, "generator.mlp.0", mean).clamp(min=0))
    h = affine(p, "generator.hidden", torch.cat([r, p["generator.layers.weight"][layer]])).clamp(min=0)
    down, up = affine(p, "generator.down", h).view(d, -1), affine(p, "generator.up", h).view(-1, d)
    return (x @ down + affine(p, "generator.down_bias", h)).clamp(min=0) @ up + affine(p, "generator.up_bias", h)


class Seen:
    """Inputs and outputs of a trunk's sublayers before a method's hook and behind it."""

    def __init__(self, model: Any, pick: Callable[[Any], Any]) -> None:
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.after = Tensor()
        module = pick(model)
        hooks = list(module._forward_hooks.items())
        module._forward_hooks.clear()
        module.register_forward_hook(self._before)
        module._forward_hooks.update(hooks)
        module.register_forward_hook(self._behind)

    def _before(self, module: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.input, self.output = inputs[0], output[0] if isinstance(output, tuple) else output

    def _behind(self, module: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.after = output[0] if isinstance(output, tuple) else output


def attention(stack: str, block: int) -> Callable[[Any], Any]:
    return lambda model: getattr(model, stack).block[block].layer[0].SelfAttention


def feed_forward(stack: str, block: int) -> Callable[[Any], Any]:
    return lambda model: getattr(model, stack).block[block].layer[-1].DenseReluDense


def doubled(make: Make, method: str) -> Any:
    trunk = make(method)
    perturb(trunk)
    trunk.tuned.double()
    return trunk


PLACES = [("encoder", 1, 1, 0), ("encoder", 0, 0, 1), ("decoder", 2, 2, 0), ("decoder", 1, 1, 1)]


@pytest.mark.parametrize(("stack", "block", "layer", "place"), PLACES)
def test_hyperformer(stack: str, block: int, layer: int, place: int, make: Make, batch: Batch) -> None:
    trunk = doubled(make, "hyperformer-m")
    seen = Seen(trunk.model, (feed_forward, attention)[place](stack, block))
    with torch.no_grad():
        trunk.row_losses(targets(trunk), batch)
        p = trunk.tuned.trained()
        for row, task in enumerate(batch.slots.tolist()):
            wanted = hyperformed(p, ("encoder", "decoder").index(stack), layer, place, task, seen.output[row])
            torch.testing.assert_close(seen.after[row], wanted)


@pytest.mark.parametrize("block", [0, 2])
def test_hyperdecoder(block: int, make: Make, batch: Batch) -> None:
    trunk = doubled(make, "hyperdecoder-m")
    seen = Seen(trunk.model, feed_forward("decoder", block))
    with torch.no_grad():
        states = trunk._read(targets(trunk), batch, None).states
        trunk.row_losses(targets(trunk), batch)
        for row, length in enumerate(batch.input_lengths.tolist()):
            mean = states[row, :length].mean(0)
            added = hyperdecoded(trunk.tuned.trained(), block, mean, seen.input[row])
            torch.testing.assert_close(seen.after[row], seen.output[row] + added)


def test_the_encoder_of_a_hyperdecoder_has_adapters_of_its_own(make: Make, batch: Batch) -> None:
    trunk = doubled(make, "hyperdecoder-m")
    seen = Seen(trunk.model, feed_forward("encoder", 1))
    with torch.no_grad():
        trunk.row_losses(targets(trunk), batch)
        p, x = trunk.tuned.trained(), seen.input
        down = (x @ p["adapters.1.down.weight"].T + p["adapters.1.down.bias"]).clamp(min=0)
        wanted = seen.output + down @ p["adapters.1.up.weight"].T + p["adapters.1.up.bias"]
    torch.testing.assert_close(seen.after, wanted)


@pytest.mark.parametrize(("stack", "block", "number"), [("encoder", 1, 2), ("decoder", 2, 8)])
def test_adapter(stack: str, block: int, number: int, make: Make, batch: Batch) -> None:
    trunk = doubled(make, "adapter")
    behind = [Seen(trunk.model, pick(stack, block)) for pick in (attention, feed_forward)]
    with torch.no_grad():
        trunk.row_losses(targets(trunk), batch)
        for which, seen in enumerate(behind):
            wanted = adapted(trunk.tuned.trained(), f"adapters.{number + which}", seen.output)
            torch.testing.assert_close(seen.after, wanted)


def test_a_trunk_of_its_own(make: Make, fresh: Callable[[], ReferenceTrunk]) -> None:
    first, second = make("finetune"), make("finetune")
    perturb(first)
    assert first.fingerprint() != second.fingerprint()
    assert second.fingerprint() == fresh().fingerprint()
