"""Device code of the composition: `prepare`, then `encode` or, without an encoder, `gather`.

README.md says what is computed and why in two launches; `plan.Constants` and `arguments.py` what the names are.
"""

import triton
import triton.language as tl

from .tiles import (
    apply_mask,
    gate_pair,
    pick,
    piece_of,
    prompts_of,
    router_weights,
    rows_in_use,
    rows_times,
    rows_with_weight,
    target_tokens,
    tile_of,
)

INV_SQRT_2 = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit(do_not_specialize=["runs"])
def prepare(arrivals, logits, mix, source, private, runs, SAVE: tl.constexpr, PLAN: tl.constexpr):
    """One program a run: weights, gates, used sources. With H: one a tile of the hidden layer, too.

    `source` and `private` are the encoders' first layers. With SAVE their slopes are written.
    """
    # Two kinds of programs in one launch, which no program of either kind waits for. The runs' come first.
    program = tl.program_id(0)
    if program < runs:
        _prepare_run(arrivals, logits, mix, program, PLAN)
    elif PLAN.H > 0:
        _hidden_tile(logits, source, private, program - runs, SAVE, PLAN)


@triton.jit
def _prepare_run(arrivals, logits, mix, run, PLAN: tl.constexpr):
    """Weights and gates of a run, which of its sources any task uses, and its counters set to zero."""
    # Tasks down, router weights across: all of a run is one tile.
    t = tl.arange(0, PLAN.BLOCK_T)
    n = tl.arange(0, PLAN.BLOCK_NW)
    if PLAN.NW > 0:
        w, _ = router_weights(logits, run, PLAN)
        w = apply_mask(w, logits.keep, PLAN)
        there = (t < PLAN.T)[:, None] & (n < PLAN.NW)[None, :]
        tl.store(mix.weights + (run * PLAN.T + t[:, None]) * PLAN.NW + n[None, :], w, mask=there)
        # Of `inside` there is one weight more than sources, the private prompt's, which is not noted.
        tl.store(mix.used + run * PLAN.N + n, tl.max((w != 0).to(tl.int32), axis=0), mask=n < PLAN.N)
    alpha, beta = gate_pair(logits.gates, run, t, PLAN)
    tl.store(mix.gates + (run * PLAN.T + t) * 2, alpha, mask=t < PLAN.T)
    tl.store(mix.gates + (run * PLAN.T + t) * 2 + 1, beta, mask=t < PLAN.T)
    # The counters that the next launch counts arrivals with, see `encode`.
    for start in range(0, PLAN.PIECES, 128):
        piece = start + tl.arange(0, 128)
        tl.store(arrivals + run * PLAN.PIECES + piece, tl.zeros_like(piece), mask=piece < PLAN.PIECES)


@triton.jit
def _hidden_tile(logits, source, private, index, SAVE: tl.constexpr, PLAN: tl.constexpr):
    """A tile of G = gelu(E W1^T + b1), and its slopes for the backward pass."""
    # ROWS tokens of one role's prompts by BLOCK_N of the H columns.
    run, column_tile, token_tile, tile, is_source, count = tile_of(
        index, (PLAN.H + PLAN.BLOCK_N - 1) // PLAN.BLOCK_N, PLAN
    )
    prompt, token, live = prompts_of(tile, token_tile, tl.arange(0, PLAN.ROWS), count, PLAN)
    if PLAN.NORMALISER == "sparsemax":  # another program is writing `used` just now
        w, _ = router_weights(logits, run, PLAN)
        live = live & rows_with_weight(apply_mask(w, logits.keep, PLAN), prompt, is_source, PLAN)
    # Where no row is live, nobody will read the tile, and nothing of the weight is loaded.
    if tl.max(live.to(tl.int32), axis=0) != 0:
        rows = (run * count + prompt).to(tl.int64) * PLAN.M + token
        encoder = (run * count + tile if PLAN.PER_PROMPT else run).to(tl.int64)
        columns = column_tile * PLAN.BLOCK_N + tl.arange(0, PLAN.BLOCK_N)
        inputs = pick(is_source, source.inputs, private.inputs, PLAN)
        weight = pick(is_source, source.weight, private.weight, PLAN) + encoder * PLAN.H * PLAN.D
        bias = pick(is_source, source.bias, private.bias, PLAN) + encoder * PLAN.H
        y = rows_times(inputs, rows, live, weight, columns, PLAN.D, PLAN.H, False, PLAN)
        y += tl.load(bias + columns, mask=columns < PLAN.H, other=0.0)[None, :]
        share = 0.5 * (1.0 + tl.erf(y * INV_SQRT_2))  # F(y), the normal distribution function
        place = rows[:, None] * PLAN.H + columns[None, :]
        there = live[:, None] & (columns < PLAN.H)[None, :]
        tl.store(pick(is_source, source.outputs, private.outputs, PLAN) + place, y * share, mask=there)
        if SAVE:
            # gelu'(y) = F(y) + y f(y): erf and exp are computed here and nowhere else.
            slope = share + y * tl.exp(-0.5 * y * y) * INV_SQRT_2PI
            tl.store(pick(is_source, source.slope, private.slope, PLAN) + place, slope, mask=there)


@triton.jit
def encode(arrivals, targets, mix, source, private, INNER: tl.constexpr, PLAN: tl.constexpr):
    """One program a tile of the last layer; the last to finish of a piece composes its targets.

    `source` and `private` are the encoders' last layers, of INNER inputs. Who is last does not matter to the result: it
    reads all prompts of the piece in a fixed order.
    """
    # ROWS tokens of one role's prompts by BLOCK_N of the D columns. A piece of the targets is the same tokens and
    # columns of all prompts: ROW_TILES programs make what one piece is composed of.
    run, column_tile, token_tile, tile, is_source, count = tile_of(tl.program_id(0), PLAN.COLUMN_TILES, PLAN)
    prompt, token, live = prompts_of(tile, token_tile, tl.arange(0, PLAN.ROWS), count, PLAN)
    live = rows_in_use(live, prompt, is_source, mix.used, run, PLAN)
    if tl.max(live.to(tl.int32), axis=0) != 0:
        rows = (run * count + prompt).to(tl.int64) * PLAN.M + token
        encoder = (run * count + tile if PLAN.PER_PROMPT else run).to(tl.int64)
        columns = column_tile * PLAN.BLOCK_N + tl.arange(0, PLAN.BLOCK_N)
        inputs = pick(is_source, source.inputs, private.inputs, PLAN)
        weight = pick(is_source, source.weight, private.weight, PLAN) + encoder * PLAN.D * INNER
        bias = pick(is_source, source.bias, private.bias, PLAN) + encoder * PLAN.D
        p = rows_times(inputs, rows, live, weight, columns, INNER, PLAN.D, False, PLAN)
        p += tl.load(bias + columns, mask=columns < PLAN.D, other=0.0)[None, :]
        there = live[:, None] & (columns < PLAN.D)[None, :]
        outputs = pick(is_source, source.outputs, private.outputs, PLAN)
        tl.store(outputs + rows[:, None] * PLAN.D + columns[None, :], p, mask=there)
    # Every thread's stores come before the program's arrival, which releases them; the last arrival acquires those of
    # all programs of the piece. Programs without live rows arrive too: the count is known in advance.
    tl.debug_barrier()
    piece = run * PLAN.PIECES + token_tile * PLAN.COLUMN_TILES + column_tile
    if tl.atomic_add(arrivals + piece, 1, sem="acq_rel") == PLAN.ROW_TILES - 1:
        _compose_piece(source.outputs, private.outputs, mix, targets, run, token_tile, column_tile, PLAN)


@triton.jit
def gather(targets, mix, source, private, PLAN: tl.constexpr):
    """One program a piece of the targets, from prompts that need no encoder."""
    run, token_tile, column_tile = piece_of(tl.program_id(0), PLAN)
    _compose_piece(source, private, mix, targets, run, token_tile, column_tile, PLAN)


@triton.jit
def _compose_piece(source, private, mix, targets, run, token_tile, column_tile, PLAN: tl.constexpr):
    """The targets of all tasks of a run, of one tile of tokens and one of d."""
    # A chunk is some rows of the tile (BLOCK_M tokens by BLOCK_N columns), as one axis of CHUNK numbers; the tasks are
    # the other axis. So each number of a source prompt is loaded once and serves all tasks.
    BLOCK_T: tl.constexpr = PLAN.BLOCK_T
    CHUNK: tl.constexpr = PLAN.CHUNK
    t = tl.arange(0, BLOCK_T)
    slot = run * PLAN.T + t
    length = target_tokens(PLAN)
    for start in range(0, PLAN.BLOCK_M * PLAN.BLOCK_N, CHUNK):
        e = start + tl.arange(0, CHUNK)
        token = token_tile * PLAN.BLOCK_M + e // PLAN.BLOCK_N
        column = column_tile * PLAN.BLOCK_N + e % PLAN.BLOCK_N
        there = (token < PLAN.M) & (column < PLAN.D)
        both = (t < PLAN.T)[:, None] & there[None, :]
        place = (token * PLAN.D + column)[None, :]
        mixture = tl.zeros([BLOCK_T, CHUNK], tl.float32)
        if PLAN.N > 0:
            for i in tl.range(0, PLAN.N, loop_unroll_factor=4):
                # A source without weight was not encoded: what lies there is anything, NaN too, and is not read.
                asked = there & (column < tl.where(tl.load(mix.used + run * PLAN.N + i) != 0, PLAN.D, 0))
                prompt = source + (run * PLAN.N + i).to(tl.int64) * PLAN.M * PLAN.D
                p = tl.load(prompt + token * PLAN.D + column, mask=asked, other=0.0)
                w = tl.load(mix.weights + slot * PLAN.NW + i, mask=t < PLAN.T, other=0.0)
                mixture += w[:, None] * p[None, :]
        alpha = tl.load(mix.gates + slot * 2, mask=t < PLAN.T, other=0.0)[:, None]
        beta = tl.load(mix.gates + slot * 2 + 1, mask=t < PLAN.T, other=0.0)[:, None]
        own = tl.zeros([BLOCK_T, CHUNK], tl.float32)
        if PLAN.PRIVATES > 0 and PLAN.PRIVATE_ON:
            prompt = private + slot.to(tl.int64)[:, None] * (PLAN.M * PLAN.D)
            own = tl.load(prompt + place, mask=both, other=0.0)
        out = targets + slot.to(tl.int64)[:, None] * (length * PLAN.D) + place
        kind = targets.dtype.element_ty
        if PLAN.COMPOSITION == "scp":
            tl.store(out, (beta * mixture).to(kind), mask=both)
            tl.store(out + PLAN.M * PLAN.D, (alpha * own).to(kind), mask=both)
        elif PLAN.COMPOSITION == "inside" and PLAN.PRIVATES > 0:
            w = tl.load(mix.weights + slot * PLAN.NW + PLAN.N, mask=t < PLAN.T, other=0.0)[:, None]
            tl.store(out, (mixture + w * own).to(kind), mask=both)
        else:  # alpha and beta are 1 where there are no gates, absent terms 0; `target_tokens` knows all compositions
            tl.store(out, (alpha * own + beta * mixture).to(kind), mask=both)
