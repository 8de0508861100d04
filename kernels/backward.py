"""Device code of the composition's gradients: `backward_prompts`, then `backward_layer` once for each linear layer.

README.md derives the formulas; `plan.Constants` and `arguments.py` say what the names are. No kernel uses atomics: each
number is written by one program, and summed in one order.
"""

import triton
import triton.language as tl

from .tiles import (
    apply_mask,
    gate_pair,
    multiply,
    pick,
    piece_of,
    prompts_of,
    router_weights,
    rows_in_use,
    rows_times,
    target_tokens,
    tile_of,
)


@triton.jit
def backward_prompts(grad, mix, source, private, dots, DOTS: tl.constexpr, PLAN: tl.constexpr):
    """One program a piece: gradients of the prompts from those of the targets.

    With DOTS also <gradient of target t, prompt i> over the piece, (R, pieces, T, N + 1), the
    private prompt's last.
    """
    # As in `_compose_piece`: chunks of the piece along one axis, all tasks along the other, so that each target's
    # gradient is loaded once and serves all sources. What a source gets is a sum over the tasks' axis.
    BLOCK_T: tl.constexpr = PLAN.BLOCK_T
    BLOCK_DOTS: tl.constexpr = PLAN.BLOCK_DOTS
    program = tl.program_id(0)
    run, token_tile, column_tile = piece_of(program, PLAN)
    t = tl.arange(0, BLOCK_T)
    slot = run * PLAN.T + t
    n = tl.arange(0, BLOCK_DOTS)
    length = target_tokens(PLAN)
    alpha = tl.load(mix.gates + slot * 2, mask=t < PLAN.T, other=0.0)
    beta = tl.load(mix.gates + slot * 2 + 1, mask=t < PLAN.T, other=0.0)
    if PLAN.COMPOSITION == "inside" and PLAN.PRIVATES > 0:  # the private prompt's factor is its router weight
        alpha = tl.load(mix.weights + slot * PLAN.NW + PLAN.N, mask=t < PLAN.T, other=0.0)
    total = tl.zeros([BLOCK_T, BLOCK_DOTS], tl.float32)
    for start in range(0, PLAN.BLOCK_M * PLAN.BLOCK_N, PLAN.CHUNK):
        e = start + tl.arange(0, PLAN.CHUNK)
        token = token_tile * PLAN.BLOCK_M + e // PLAN.BLOCK_N
        column = column_tile * PLAN.BLOCK_N + e % PLAN.BLOCK_N
        there = (token < PLAN.M) & (column < PLAN.D)
        both = (t < PLAN.T)[:, None] & there[None, :]
        place = token * PLAN.D + column
        out = grad + slot.to(tl.int64)[:, None] * (length * PLAN.D) + place[None, :]
        g = tl.load(out, mask=both, other=0.0).to(tl.float32)
        if PLAN.N > 0:
            total = _spread_sources(g, beta, total, mix, source, run, place, column, there, DOTS, PLAN)
        if PLAN.PRIVATES > 0:
            if PLAN.COMPOSITION == "scp":  # the targets' second half is the private prompts'
                g = tl.load(out + PLAN.M * PLAN.D, mask=both, other=0.0).to(tl.float32)
            total = _spread_private(g, alpha, total, private, slot, place, both, DOTS, PLAN)
    if DOTS:
        part = dots + (program.to(tl.int64) * PLAN.T + t[:, None]) * (PLAN.N + 1)  # by run, then piece
        tl.store(part + n[None, :], total, mask=(t < PLAN.T)[:, None] & (n <= PLAN.N)[None, :])


@triton.jit
def _spread_sources(g, beta, total, mix, source, run, place, column, there, DOTS: tl.constexpr, PLAN: tl.constexpr):
    """A chunk of the sources' gradients, stored; and `total` with the chunk's products with the sources added."""
    t = tl.arange(0, PLAN.BLOCK_T)
    n = tl.arange(0, PLAN.BLOCK_DOTS)
    slot = run * PLAN.T + t
    for i in tl.range(0, PLAN.N, loop_unroll_factor=4):
        is_used = tl.load(mix.used + run * PLAN.N + i) != 0
        w = tl.load(mix.weights + slot * PLAN.NW + i, mask=t < PLAN.T, other=0.0)
        prompt = (run * PLAN.N + i).to(tl.int64) * (PLAN.M * PLAN.D) + place
        share = tl.sum((beta * w)[:, None] * g, axis=0)
        # Zeros, said outright, where no task has a weight: a target that is NaN must not spoil an unused source.
        tl.store(source.d_encoded + prompt, tl.where(is_used, share, 0.0), mask=there)
        if DOTS:
            asked = there & (column < tl.where(is_used, PLAN.D, 0))
            p = tl.load(source.encoded + prompt, mask=asked, other=0.0)
            dot = tl.sum(g * p[None, :], axis=1)
            # Into column i of the sums: registers have no index, so that all columns are added to, i's by the product.
            total += tl.where((n == i)[None, :], dot[:, None], 0.0)
    return total


@triton.jit
def _spread_private(g, alpha, total, private, slot, place, both, DOTS: tl.constexpr, PLAN: tl.constexpr):
    """The same of the private prompts, each of which only its own task's target has."""
    n = tl.arange(0, PLAN.BLOCK_DOTS)
    prompt = slot.to(tl.int64)[:, None] * (PLAN.M * PLAN.D) + place[None, :]
    if PLAN.PRIVATE_ON:
        tl.store(private.d_encoded + prompt, alpha[:, None] * g, mask=both)
        if DOTS:
            own = tl.load(private.encoded + prompt, mask=both, other=0.0)
            dot = tl.sum(g * own, axis=1)
            total += tl.where((n == PLAN.N)[None, :], dot[:, None], 0.0)
    else:
        tl.store(private.d_encoded + prompt, tl.zeros_like(g), mask=both)
    return total


@triton.jit
def backward_logits(dots, logits, logit_grads, PLAN: tl.constexpr):
    """One program a run: gradients of the logits, where there is no encoder to go back through."""
    _logit_gradients(dots, logits, logit_grads, tl.program_id(0), PLAN)


@triton.jit
def _logit_gradients(dots, logits, logit_grads, run, PLAN: tl.constexpr):
    """Gradients of a run's logits of router and gates, from the sums of `dots` over its pieces."""
    # Tasks down, weights across, as in `router_weights`, which makes the weights again: they are few.
    t = tl.arange(0, PLAN.BLOCK_T)
    dot, own = _summed_dots(dots, run, PLAN)
    alpha, beta = gate_pair(logits.gates, run, t, PLAN)
    raw, candidate = router_weights(logits, run, PLAN)
    if PLAN.GATES != "fixed" and PLAN.GATES != "none":
        w = apply_mask(raw, logits.keep, PLAN)
        d_beta = tl.sum(w * dot, axis=1)
        _gate_gradient(logit_grads.gates, run, t, own, d_beta, alpha, beta, PLAN)
    if PLAN.NORMALISER != "constant":
        # Of a weight that is masked after normalisation the gradient is 0. One masked before was no candidate, and its
        # logit's gradient is 0.
        g = apply_mask(beta[:, None] * dot, logits.keep, PLAN)
        if PLAN.NORMALISER == "sigmoid":
            dz = raw * (1.0 - raw) * g
        elif PLAN.NORMALISER == "softmax":
            dz = raw * (g - tl.sum(raw * g, axis=1)[:, None]) / logits.tau
        else:
            tl.static_assert(PLAN.NORMALISER == "sparsemax", "unknown normaliser")
            support = candidate & (raw != 0)
            size = tl.maximum(tl.sum(support.to(tl.float32), axis=1), 1.0)
            mean = tl.sum(tl.where(support, g, 0.0), axis=1) / size
            dz = tl.where(support, g - mean[:, None], 0.0)
        dz = tl.where(candidate, dz, 0.0)
        column = tl.arange(0, PLAN.BLOCK_NW)[None, :]
        out = logit_grads.router + (run * PLAN.T + t[:, None]) * PLAN.NW + column
        tl.store(out, dz, mask=(t < PLAN.T)[:, None] & (column < PLAN.NW))


@triton.jit
def _summed_dots(dots, run, PLAN: tl.constexpr):
    """A run's dots, summed over its pieces in order: the first NW of the N + 1 columns, and the private prompt's."""
    # (pieces, tasks, weights) at a time, as many pieces as fit into 1024 numbers.
    BLOCK_T: tl.constexpr = PLAN.BLOCK_T
    BLOCK_NW: tl.constexpr = PLAN.BLOCK_NW
    t = tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_NW)[None, :]
    dot = tl.zeros([BLOCK_T, BLOCK_NW], tl.float32)
    own = tl.zeros([BLOCK_T], tl.float32)
    for start in range(0, PLAN.PIECES, PLAN.BLOCK_PIECES):
        piece = start + tl.arange(0, PLAN.BLOCK_PIECES)
        there = (piece < PLAN.PIECES)[:, None] & (t < PLAN.T)[None, :]
        place = ((run * PLAN.PIECES + piece)[:, None].to(tl.int64) * PLAN.T + t[None, :]) * (PLAN.N + 1)
        own += tl.sum(tl.load(dots + place + PLAN.N, mask=there, other=0.0), axis=0)
        mask = there[:, :, None] & (column < PLAN.NW)[None, :, :]
        values = tl.load(dots + place[:, :, None] + column[None, :, :], mask=mask, other=0.0)
        dot += tl.sum(values, axis=0)
    return dot, own


@triton.jit
def _gate_gradient(gate_grad, run, t, d_alpha, d_beta, alpha, beta, PLAN: tl.constexpr):
    """Back through the gates' sigmoids; alpha and beta are zero where there is no task."""
    if PLAN.GATES == "tied":
        tl.store(gate_grad + run * PLAN.T + t, (d_alpha - d_beta) * alpha * (1.0 - alpha), mask=t < PLAN.T)
    else:
        d_alpha = d_alpha * alpha * (1.0 - alpha)
        d_beta = d_beta * beta * (1.0 - beta)
        if PLAN.GATES == "learned":
            tl.store(gate_grad + (run * PLAN.T + t) * 2, d_alpha, mask=t < PLAN.T)
            tl.store(gate_grad + (run * PLAN.T + t) * 2 + 1, d_beta, mask=t < PLAN.T)
        else:  # one pair of logits for all tasks
            tl.static_assert(PLAN.GATES == "learned-global", "unknown gates")
            tl.store(gate_grad + run * 2, tl.sum(d_alpha, axis=0))
            tl.store(gate_grad + run * 2 + 1, tl.sum(d_beta, axis=0))


@triton.jit(do_not_specialize=["logit_programs", "input_programs"])
def backward_layer(
    used, dots, logits, logit_grads, source, private, logit_programs, input_programs,
    INNER: tl.constexpr, OUTER: tl.constexpr, DOTS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Gradients of one linear layer y = x W^T + b, (OUTER, INNER), of all runs and encoders.

    Three kinds of programs: `logit_programs`, one a run, for the logits; `input_programs`, one a
    tile of dx = dy W, times the slope of what made x; and one a tile of dW = dy^T x, which those
    of the first columns give db, the sum of dy's rows, too.
    """
    # None of them needs what another one writes. Those of the runs, each of which loops over all pieces, begin first.
    program = tl.program_id(0)
    if program < logit_programs:
        if DOTS:  # else there are no such programs
            _logit_gradients(dots, logits, logit_grads, program, PLAN)
    elif program < logit_programs + input_programs:
        _input_gradient(program - logit_programs, used, source, private, INNER, OUTER, PLAN)
    else:
        _weight_gradient(program - logit_programs - input_programs, used, source, private, INNER, OUTER, PLAN)


@triton.jit
def _input_gradient(index, used, source, private, INNER: tl.constexpr, OUTER: tl.constexpr, PLAN: tl.constexpr):
    """A tile of dx = dy W, times the slopes where there are some; zeros where a source is not used."""
    # ROWS tokens of one role's prompts by BLOCK_N of the INNER columns. `there` are rows that exist, and are all
    # stored; `live` are those whose dy was ever written.
    ROWS: tl.constexpr = PLAN.ROWS
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    run, column_tile, token_tile, tile, is_source, count = tile_of(index, (INNER + BLOCK_N - 1) // BLOCK_N, PLAN)
    prompt, token, there = prompts_of(tile, token_tile, tl.arange(0, ROWS), count, PLAN)
    live = rows_in_use(there, prompt, is_source, used, run, PLAN)
    rows = (run * count + prompt).to(tl.int64) * PLAN.M + token
    columns = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    out = rows[:, None] * INNER + columns[None, :]
    inside = (columns < INNER)[None, :]
    d = tl.zeros([ROWS, BLOCK_N], tl.float32)
    if tl.max(live.to(tl.int32), axis=0) != 0:
        encoder = (run * count + tile if PLAN.PER_PROMPT else run).to(tl.int64)
        d_outputs = pick(is_source, source.d_outputs, private.d_outputs, PLAN)
        weight = pick(is_source, source.weight, private.weight, PLAN)
        weight += encoder * OUTER * INNER
        d = rows_times(d_outputs, rows, live, weight, columns, OUTER, INNER, True, PLAN)
        if source.slope is not None or private.slope is not None:
            slope = pick(is_source, source.slope, private.slope, PLAN)
            d *= tl.load(slope + out, mask=live[:, None] & inside, other=0.0)
    d_inputs = pick(is_source, source.d_inputs, private.d_inputs, PLAN)
    tl.store(d_inputs + out, d, mask=there[:, None] & inside)


@triton.jit
def _tiles_of_encoder(encoder, PLAN: tl.constexpr):
    """The first of the tiles of prompts, counted through both roles, that an encoder of a run takes part in, and the
    first behind them.
    """
    if PLAN.PER_PROMPT:
        first, last = encoder, encoder + 1
    elif PLAN.ENCODERS == 1:  # shared by the roles, or of the one role that there is
        first, last = 0 * encoder, 0 * encoder + PLAN.ROW_TILES
    else:
        first = encoder * PLAN.SOURCE_TILES
        last = tl.where(encoder == 0, PLAN.SOURCE_TILES, PLAN.ROW_TILES)
    return first, last


@triton.jit
def _weight_gradient(index, used, source, private, INNER: tl.constexpr, OUTER: tl.constexpr, PLAN: tl.constexpr):
    """A tile of dW = dy^T x, summed over all rows of the encoder in order; of the first columns, db too."""
    # BLOCK_OUTER by BLOCK_INNER of one encoder's (OUTER, INNER) stay in registers, while the rows that the encoder made
    # pass, BLOCK_ROWS at a time. Rows that are not live are loaded as zeros and add nothing.
    BLOCK_OUTER: tl.constexpr = PLAN.BLOCK_OUTER
    BLOCK_INNER: tl.constexpr = PLAN.BLOCK_INNER
    across = (INNER + BLOCK_INNER - 1) // BLOCK_INNER
    down = (OUTER + BLOCK_OUTER - 1) // BLOCK_OUTER
    column_tile = index % across
    outer = index // across % down * BLOCK_OUTER + tl.arange(0, BLOCK_OUTER)
    inner = column_tile * BLOCK_INNER + tl.arange(0, BLOCK_INNER)
    run = index // (across * down) // PLAN.ENCODERS
    encoder = index // (across * down) % PLAN.ENCODERS
    first, last = _tiles_of_encoder(encoder, PLAN)
    weight_total = tl.zeros([BLOCK_OUTER, BLOCK_INNER], tl.float32)
    bias_total = tl.zeros([BLOCK_OUTER], tl.float32)
    # Tiles of prompts, tiles of tokens and parts of a tile in one flat loop, which is pipelined as a whole.
    parts: tl.constexpr = PLAN.ROWS // PLAN.BLOCK_ROWS
    for step in range(first * PLAN.TOKEN_TILES * parts, last * PLAN.TOKEN_TILES * parts):
        tile = step // (PLAN.TOKEN_TILES * parts)
        is_source = tile < PLAN.SOURCE_TILES
        tile -= tl.where(is_source, 0, PLAN.SOURCE_TILES)
        count = tl.where(is_source, PLAN.N, PLAN.PRIVATES)
        row = step % parts * PLAN.BLOCK_ROWS + tl.arange(0, PLAN.BLOCK_ROWS)
        prompt, token, live = prompts_of(tile, step // parts % PLAN.TOKEN_TILES, row, count, PLAN)
        live = rows_in_use(live, prompt, is_source, used, run, PLAN)
        rows = (run * count + prompt).to(tl.int64) * PLAN.M + token
        d_outputs = pick(is_source, source.d_outputs, private.d_outputs, PLAN)
        d_mask = live[:, None] & (outer < OUTER)[None, :]
        d = tl.load(d_outputs + rows[:, None] * OUTER + outer[None, :], mask=d_mask, other=0.0)
        inputs = pick(is_source, source.inputs, private.inputs, PLAN)
        x_mask = live[:, None] & (inner < INNER)[None, :]
        x = tl.load(inputs + rows[:, None] * INNER + inner[None, :], mask=x_mask, other=0.0)
        weight_total = multiply(tl.trans(d), x, weight_total, PLAN)
        bias_total += tl.sum(d, axis=0)
    is_source = first < PLAN.SOURCE_TILES
    count = tl.where(is_source, PLAN.N, PLAN.PRIVATES)
    own = encoder - tl.where(is_source, 0, PLAN.SOURCE_TILES)  # its number within its role
    which = (run * count + own if PLAN.PER_PROMPT else run).to(tl.int64)
    d_weight = pick(is_source, source.d_weight, private.d_weight, PLAN) + which * OUTER * INNER
    within = (outer < OUTER)[:, None] & (inner < INNER)[None, :]
    tl.store(d_weight + outer[:, None] * INNER + inner[None, :], weight_total, mask=within)
    if column_tile == 0:
        d_bias = pick(is_source, source.d_bias, private.d_bias, PLAN)
        tl.store(d_bias + which * OUTER + outer, bias_total, mask=outer < OUTER)
