"""Device code of the update: `squares` of gradients, and `update`.

All tensors of a run are cut into blocks of BLOCK numbers, and the blocks are counted through the tensors: a program
takes a block's number and looks up whose it is. `LAYOUT` is `adamw.Layout`, `tensors` is `adamw.Groups`.

A run has `SIZES[i]` values of tensor i, in the first `EVEN` tensors a multiple of four, which `size // 4 * 4`
shows to the compiler: four then stand in one load. Sizes that are none (a router of 6 tasks and 3
sources) would slow down all others; tl.multiple_of would not do, because it marks both branches.
"""

import triton
import triton.language as tl


@triton.jit
def _place(block, LAYOUT: tl.constexpr):
    """Which tensor a block of a run belongs to, its size, and the block's number in it."""
    # Arguments cannot be indexed by what is known on the device alone: all tensors are gone through, and the last that
    # begins at or before the block stays.
    SIZES: tl.constexpr = LAYOUT.SIZES
    STARTS: tl.constexpr = LAYOUT.STARTS
    COUNT: tl.constexpr = LAYOUT.COUNT
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
def _choose(tensors, which, LAYOUT: tl.constexpr):
    """The pointer of a group's tensor `which`."""
    COUNT: tl.constexpr = LAYOUT.COUNT
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
def squares(grads, partial, LAYOUT: tl.constexpr):
    """Sums of squares of every PARTS-th block of a run's gradients, (R, PARTS)."""
    # A program owns one part of one run. The squares of its blocks are added number by number, in order, and across the
    # block once at the end: the same bits every time.
    BLOCK: tl.constexpr = LAYOUT.BLOCK
    program = tl.program_id(0)
    run = program // LAYOUT.PARTS
    total = tl.zeros([BLOCK], tl.float32)
    for block in range(program % LAYOUT.PARTS, LAYOUT.BLOCKS, LAYOUT.PARTS):
        which, size, number = _place(block, LAYOUT)
        grad = _choose(grads, which, LAYOUT)
        if which < LAYOUT.EVEN:
            total += _squares_of(grad, run, size // 4 * 4, number, BLOCK)
        else:
            total += _squares_of(grad, run, size, number, BLOCK)
    tl.store(partial + program, tl.sum(total, axis=0))


@triton.jit
def update(partial, tensors, table, healthy, norm, updated, LAYOUT: tl.constexpr):
    """One program a block. A run that is not healthy or not finite keeps its values and moments.

    `table` holds a row a run: a rate for each tensor, decay, clip, and the two bias corrections.
    """
    program = tl.program_id(0)
    run = program // LAYOUT.BLOCKS
    block = program % LAYOUT.BLOCKS
    which, size, number = _place(block, LAYOUT)
    row = table + run * (LAYOUT.COUNT + 4)
    if which < LAYOUT.EVEN:
        _move(partial, tensors, row, healthy, norm, updated, run, block, which, size // 4 * 4, number, LAYOUT)
    else:
        _move(partial, tensors, row, healthy, norm, updated, run, block, which, size, number, LAYOUT)


@triton.jit
def _move(partial, tensors, row, healthy, norm, updated, run, block, which, size, number, LAYOUT: tl.constexpr):
    """The update of one block. All loads come first, so that the norm is summed while they travel."""
    e = number * LAYOUT.BLOCK + tl.arange(0, LAYOUT.BLOCK)
    there = e < size
    place = run.to(tl.int64) * size + e
    m_place = _choose(tensors.first, which, LAYOUT) + place
    v_place = _choose(tensors.second, which, LAYOUT) + place
    p_place = _choose(tensors.parameters, which, LAYOUT) + place
    g = tl.load(_choose(tensors.grads, which, LAYOUT) + place, mask=there, other=0.0)
    m = tl.load(m_place, mask=there, other=0.0)
    v = tl.load(v_place, mask=there, other=0.0)
    p = tl.load(p_place, mask=there, other=0.0)
    # Every program of a run sums the same parts in the same order, and so comes to the same norm and the same verdict.
    length = tl.sqrt(tl.sum(tl.load(partial + run * LAYOUT.PARTS + tl.arange(0, LAYOUT.PARTS)), axis=0))
    moves = tl.where(length < float("inf"), tl.load(healthy + run).to(tl.int32), 0)  # a NaN is not less
    if block == 0:
        tl.store(norm + run, length)
        tl.store(updated + run, moves.to(tl.int8))
    # Numbers of the table are float64, and rounded once where they meet a value. Clipping leaves a shorter gradient as
    # it is: clip / max(length, clip) is then 1.
    rate = tl.load(row + which)
    clip = tl.load(row + LAYOUT.COUNT + 1)
    g *= (clip / tl.maximum(length.to(tl.float64), clip)).to(tl.float32)
    m = m * LAYOUT.BETA1 + g * (1 - LAYOUT.BETA1)
    v = v * LAYOUT.BETA2 + g * g * (1 - LAYOUT.BETA2)
    stride = (rate / tl.load(row + LAYOUT.COUNT + 2)).to(tl.float32)
    correction = tl.load(row + LAYOUT.COUNT + 3).to(tl.float32)
    p *= (1.0 - rate * tl.load(row + LAYOUT.COUNT)).to(tl.float32)
    p -= stride * m / (tl.sqrt(v / correction) + LAYOUT.EPSILON)
    # A run that stays as it is stores nothing: its mask ends at 0.
    there = e < tl.where(moves != 0, size, 0)
    tl.store(m_place, m, mask=there)
    tl.store(v_place, v, mask=there)
    tl.store(p_place, p, mask=there)
