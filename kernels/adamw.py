"""AdamW of all runs of a cohort at once: the runs' gradient norms, then one pass over everything.

Decoupled weight decay (Loshchilov and Hutter 2019), the gradient of each run first clipped to its own
norm. On CUDA two launches; elsewhere PyTorch's fused AdamW does the same arithmetic, run by run.
Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from . import moved, unavailable

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
BLOCK = 2048
PARTS = 512
"""Programs a run that add up squares; each program of the update adds up their sums again."""

Group = Sequence[Tensor]


class Groups(NamedTuple):
    """What the kernel changes, a tensor (R, ...) each, and the gradients that it does so by."""

    parameters: tuple[Tensor, ...]
    grads: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]


class Layout(NamedTuple):
    """What the kernels know when they are compiled: a run's tensors in blocks, and the constants of the formula."""

    SIZES: tuple[int, ...]  # numbers of a run, by tensor
    STARTS: tuple[int, ...]  # the first block of each tensor
    COUNT: int  # tensors
    EVEN: int  # tensors, from the first on, whose sizes are multiples of four
    BLOCKS: int  # of a run
    BLOCK: int  # numbers of a block
    PARTS: int  # sums of squares of a run
    BETA1: float
    BETA2: float
    EPSILON: float

    @classmethod
    def of(cls, params: Group) -> Layout:
        """Of parameters (R, ...)."""
        sizes = tuple(p[0].numel() for p in params)
        blocks = [-(-size // BLOCK) for size in sizes]
        even = len(list(takewhile(lambda size: size % 4 == 0, sizes)))
        starts = (0, *accumulate(blocks[:-1]))
        return cls(sizes, starts, len(sizes), even, sum(blocks), BLOCK, PARTS, BETA1, BETA2, EPSILON)


@torch.no_grad()
def step(
    params: Group,
    grads: Group,
    first: Group,
    second: Group,
    *,
    rates: Group,
    decay: Tensor,
    clip: Tensor,
    taken: Tensor,
    healthy: Tensor,
) -> tuple[Tensor, Tensor]:
    """Update `params` and the moments `first` and `second` in place, each (R, ...) and contiguous.

    `rates` has a learning rate (R,) for each parameter; decay, clip (largest gradient norm of a run)
    and taken (steps before this one) are (R,) too, all float64 and of one device: from the host they
    travel in one copy. A run that is not `healthy` (R, bool) or whose gradient is not finite keeps
    its values and moments. `grads` are used up.

    Returns the gradient norms before clipping and which runs were updated, (R,) each, on the
    parameters' device. Raises `ValueError` where the kernel runs and a parameter is not fp32 or not
    contiguous.
    """
    device = params[0].device
    grads = [grad.contiguous() for grad in grads]
    if unavailable(device):
        table = torch.stack([*rates, decay, clip, taken], dim=1)
        return by_torch(params, grads, first, second, table, healthy.to(device))
    table = table_of(rates, decay, clip, taken)
    return by_kernel(params, grads, first, second, moved(table, device), moved(healthy, device))


def table_of(rates: Group, decay: Tensor, clip: Tensor, taken: Tensor) -> Tensor:
    """The numbers of a step as `by_kernel` wants them, from those that `step` takes."""
    return torch.stack([*rates, decay, clip, 1 - BETA1 ** (taken + 1), 1 - BETA2 ** (taken + 1)], dim=1)


def by_kernel(
    params: Group, grads: Group, first: Group, second: Group, table: Tensor, healthy: Tensor
) -> tuple[Tensor, Tensor]:
    """`step` in two launches.

    `table` (R, parameters + 4) float64: the rates, decay, clip, and the two bias corrections.
    """
    from . import adamw_device as device
    from .launching import launch

    for tensor in (*params, *grads, *first, *second):
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(
                f"the update needs contiguous fp32 tensors, not {tensor.dtype} of shape "
                f"{tuple(tensor.shape)} and strides {tensor.stride()}"
            )
    runs = params[0].shape[0]
    layout = Layout.of(params)
    norm = table.new_empty(runs, dtype=torch.float32)
    updated = torch.empty_like(healthy, dtype=torch.int8)
    values = {
        "tensors": Groups(tuple(params), tuple(grads), tuple(first), tuple(second)),
        "grads": tuple(grads),
        "partial": table.new_empty(runs, PARTS, dtype=torch.float32),
        "table": table,
        "healthy": healthy.view(torch.int8),
        "norm": norm,
        "updated": updated,
        "LAYOUT": layout,
    }
    launch(device.squares, runs * PARTS, values)
    launch(device.update, runs * layout.BLOCKS, values)
    return norm, updated.view(torch.bool)


def _apart(grads: Group) -> list[Tensor]:
    """Each gradient in memory of its own: autograd may give several parameters one and the same.

    `bias_ih` and `bias_hh` of an LSTM, which are added up, get one.
    """
    seen: set[int] = set()
    own = []
    for grad in grads:
        at = grad.untyped_storage().data_ptr()
        own.append(grad.clone() if at in seen else grad)
        seen.add(at)
    return own


def by_torch(
    params: Group, grads: Group, first: Group, second: Group, table: Tensor, healthy: Tensor
) -> tuple[Tensor, Tensor]:
    """`step` by PyTorch's fused AdamW, one call a run and rate, each a single pass over memory.

    `table` (R, parameters + 3) float64: the rates, decay, clip, and the steps taken.
    """
    grads = _apart(grads)  # clipped in place, each once
    norms = [torch.stack(torch._foreach_norm([grad[run] for grad in grads])).norm() for run in range(len(table))]
    norm = torch.stack(norms)
    updated = healthy & norm.isfinite()
    for run, numbers in enumerate(table.tolist()):
        if not updated[run]:
            continue
        *rates, decay, clip, taken = numbers
        count = norm.new_tensor(taken + 1, dtype=torch.float32)
        for rate in dict.fromkeys(rates):
            own = [i for i, each in enumerate(rates) if each == rate]
            torch._fused_adamw_(
                [params[i][run] for i in own],
                [grads[i][run] for i in own],
                [first[i][run] for i in own],
                [second[i][run] for i in own],
                max_exp_avg_sqs=[],
                state_steps=[count] * len(own),
                lr=rate,
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=(norm[run] / clip).float() if norm[run] > clip else None,
            )
    return norm, updated
