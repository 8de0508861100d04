"""Device code of the update: `squares` of gradients, and `update`. All tensors of a run are blocks.

A run has `SIZES[i]` values of tensor i, in the first `EVEN` tensors a multiple of four, which `size // 4 * 4`
shows to the compiler: four then stand in one load. Sizes that are none (a router of 6 tasks and 3
sources) would slow down all others; tl.multiple_of would not do, because it marks both branches.
"""

import triton
import triton.language as tl


@triton.jit
def _place(block, SIZES: tl.constexpr, STARTS: tl.constexpr, COUNT: tl.constexpr):
    """Which tensor a block of a run belongs to, its size, and the block's number in it."""
    which = 0 * block
    size = which + SIZES[0]
    start = which
    for i in tl.static_range(1, COUNT):
        after = block >= STARTS[i]
        which = tl.where(after, i, which)
        size = tl.where(after, SIZES[i], size)
        start = tl.where(after, STARTS[i], start)
    return which, size, block - start


@triton.jit
def _choose(tensors, which, COUNT: tl.constexpr):
    found = tensors[0]
    for i in tl.static_range(1, COUNT):
        found = tl.where(which == i, tensors[i], found)
    return found


@triton.jit
def _squares_of(grad, run, size, number, BLOCK: tl.constexpr):
    e = number * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(grad + run.to(tl.int64) * size + e, mask=e < size, other=0.0)
    return g * g


@triton.jit
def squares(
    grads,
    partial,
    SIZES: tl.constexpr,
    STARTS: tl.constexpr,
    COUNT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of squares of every PARTS-th block of a run's gradients, (R, PARTS)."""
    program = tl.program_id(0)
    run = program // PARTS
    total = tl.zeros([BLOCK], tl.float32)
    for block in range(program % PARTS, BLOCKS, PARTS):
        which, size, number = _place(block, SIZES, STARTS, COUNT)
        grad = _choose(grads, which, COUNT)
        if which < EVEN:
            total += _squares_of(grad, run, size // 4 * 4, number, BLOCK)
        else:
            total += _squares_of(grad, run, size, number, BLOCK)
    tl.store(partial + program, tl.sum(total, axis=0))


@triton.jit
def _move(
    parameters, grads, first, second, partial, row, healthy, norm, updated, run, block, which,
    size, number, COUNT: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The update of one block. All loads come first, so that the norm is summed while they travel."""
    e = number * BLOCK + tl.arange(0, BLOCK)
    there = e < size
    place = run.to(tl.int64) * size + e
    m_place = _choose(first, which, COUNT) + place
    v_place = _choose(second, which, COUNT) + place
    p_place = _choose(parameters, which, COUNT) + place
    g = tl.load(_choose(grads, which, COUNT) + place, mask=there, other=0.0)
    m = tl.load(m_place, mask=there, other=0.0)
    v = tl.load(v_place, mask=there, other=0.0)
    p = tl.load(p_place, mask=there, other=0.0)
    length = tl.sqrt(tl.sum(tl.load(partial + run * PARTS + tl.arange(0, PARTS)), axis=0))
    moves = tl.where(length < float("inf"), tl.load(healthy + run).to(tl.int32), 0)  # a NaN is not less
    if block == 0:
        tl.store(norm + run, length)
        tl.store(updated + run, moves.to(tl.int8))
    rate = tl.load(row + which)
    clip = tl.load(row + COUNT + 1)
    g *= (clip / tl.maximum(length.to(tl.float64), clip)).to(tl.float32)
    m = m * BETA1 + g * (1 - BETA1)
    v = v * BETA2 + g * g * (1 - BETA2)
    stride = (rate / tl.load(row + COUNT + 2)).to(tl.float32)
    correction = tl.load(row + COUNT + 3).to(tl.float32)
    p *= (1.0 - rate * tl.load(row + COUNT)).to(tl.float32)
    p -= stride * m / (tl.sqrt(v / correction) + EPSILON)
    there = e < tl.where(moves != 0, size, 0)
    tl.store(m_place, m, mask=there)
    tl.store(v_place, v, mask=there)
    tl.store(p_place, p, mask=there)


@triton.jit
def update(
    parameters,
    grads,
    first,
    second,
    partial,
    table,
    healthy,
    norm,
    updated,
    SIZES: tl.constexpr,
    STARTS: tl.constexpr,
    COUNT: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """One program a block. A run that is not healthy or not finite keeps its values and moments."""
    program = tl.program_id(0)
    run = program // BLOCKS
    block = program % BLOCKS
    which, size, number = _place(block, SIZES, STARTS, COUNT)
    row = table + run * (COUNT + 4)
    if which < EVEN:
        _move(
            parameters, grads, first, second, partial, row, healthy, norm, updated, run, block, which,
            size // 4 * 4, number, COUNT, PARTS, BLOCK, BETA1, BETA2, EPSILON,
        )  # fmt: skip
    else:
        _move(
            parameters, grads, first, second, partial, row, healthy, norm, updated, run, block, which,
            size, number, COUNT, PARTS, BLOCK, BETA1, BETA2, EPSILON,
        )  # fmt: skip
