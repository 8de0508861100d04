"""Device code of the composition's gradients: `spread`, then `layer` once for each linear layer."""

import triton
import triton.language as tl

from .tiles import (
    gate_pair,
    multiply,
    pick,
    piece_of,
    prompts_of,
    router_weights,
    rows_times,
    switched,
    target_tokens,
    tile_of,
    used_rows,
)


@triton.jit
def spread(
    grad,
    source,
    private,
    weights,
    gates,
    used,
    source_grad,
    private_grad,
    dots,
    COMPOSITION: tl.constexpr,
    PRIVATE_ON: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    NW: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    TB: tl.constexpr,
    NB1: tl.constexpr,
    BM: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    CHUNK: tl.constexpr,
    BN: tl.constexpr,
    DOTS: tl.constexpr,
):
    """One program a piece: gradients of the prompts from those of the targets.

    With DOTS also <gradient of target t, prompt i> over the piece, (R, pieces, T, N + 1), the
    private prompt's last.
    """
    program = tl.program_id(0)
    run, token_tile, column_tile = piece_of(program, TOKEN_TILES, (D + BN - 1) // BN)
    t = tl.arange(0, TB)
    slot = run * T + t
    n = tl.arange(0, NB1)
    length = target_tokens(COMPOSITION, M)
    alpha = tl.load(gates + slot * 2, mask=t < T, other=0.0)
    beta = tl.load(gates + slot * 2 + 1, mask=t < T, other=0.0)
    if COMPOSITION == "inside" and PRIVATES > 0:
        alpha = tl.load(weights + slot * NW + N, mask=t < T, other=0.0)
    total = tl.zeros([TB, NB1], tl.float32)
    for start in range(0, BM * BN, CHUNK):
        e = start + tl.arange(0, CHUNK)
        token = token_tile * BM + e // BN
        column = column_tile * BN + e % BN
        there = (token < M) & (column < D)
        both = (t < T)[:, None] & there[None, :]
        place = token * D + column
        out = grad + slot.to(tl.int64)[:, None] * (length * D) + place[None, :]
        g = tl.load(out, mask=both, other=0.0).to(tl.float32)
        if N > 0:
            for i in tl.range(0, N, loop_unroll_factor=4):
                is_used = tl.load(used + run * N + i) != 0
                w = tl.load(weights + slot * NW + i, mask=t < T, other=0.0)
                prompt = (run * N + i).to(tl.int64) * (M * D) + place
                share = tl.sum((beta * w)[:, None] * g, axis=0)
                tl.store(source_grad + prompt, tl.where(is_used, share, 0.0), mask=there)
                if DOTS:
                    asked = there & (column < tl.where(is_used, D, 0))
                    p = tl.load(source + prompt, mask=asked, other=0.0)
                    dot = tl.sum(g * p[None, :], axis=1)
                    total += tl.where((n == i)[None, :], dot[:, None], 0.0)
        if PRIVATES > 0:
            if COMPOSITION == "scp":
                g = tl.load(out + M * D, mask=both, other=0.0).to(tl.float32)
            prompt_2d = slot.to(tl.int64)[:, None] * (M * D) + place[None, :]
            if PRIVATE_ON:
                tl.store(private_grad + prompt_2d, alpha[:, None] * g, mask=both)
                if DOTS:
                    own = tl.load(private + prompt_2d, mask=both, other=0.0)
                    dot = tl.sum(g * own, axis=1)
                    total += tl.where((n == N)[None, :], dot[:, None], 0.0)
            else:
                tl.store(private_grad + prompt_2d, tl.zeros_like(g), mask=both)
    if DOTS:
        part = dots + (program.to(tl.int64) * T + t[:, None]) * (N + 1)  # by run, then piece
        tl.store(part + n[None, :], total, mask=(t < T)[:, None] & (n <= N)[None, :])


@triton.jit
def _router_gradient(
    dots, router, keep, gate_logits, router_grad, gate_grad, run, tau,
    T: tl.constexpr, N: tl.constexpr, NW: tl.constexpr,
    TB: tl.constexpr, NB: tl.constexpr, NORMALISER: tl.constexpr,
    MASK: tl.constexpr, GATES: tl.constexpr, PIECES: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """Gradients of a run's logits of router and gates, from the sums of `dots` over its pieces."""
    t = tl.arange(0, TB)
    column = tl.arange(0, NB)[None, :]
    dot = tl.zeros([TB, NB], tl.float32)  # the first NW of the N + 1 columns
    own = tl.zeros([TB], tl.float32)
    for start in range(0, PIECES, PB):
        piece = start + tl.arange(0, PB)
        there = (piece < PIECES)[:, None] & (t < T)[None, :]
        place = ((run * PIECES + piece)[:, None].to(tl.int64) * T + t[None, :]) * (N + 1)
        own += tl.sum(tl.load(dots + place + N, mask=there, other=0.0), axis=0)
        mask = there[:, :, None] & (column < NW)[None, :, :]
        values = tl.load(dots + place[:, :, None] + column[None, :, :], mask=mask, other=0.0)
        dot += tl.sum(values, axis=0)
    alpha, beta = gate_pair(gate_logits, run, t, T, GATES)
    raw, candidate = router_weights(router, keep, run, tau, T, NW, TB, NB, NORMALISER, MASK)
    if GATES != "fixed" and GATES != "none":
        w = switched(raw, keep, NW, NB, MASK)
        d_beta = tl.sum(w * dot, axis=1)
        _gate_gradient(gate_grad, run, t, own, d_beta, alpha, beta, T, GATES)
    if NORMALISER != "constant":
        g = switched(beta[:, None] * dot, keep, NW, NB, MASK)
        if NORMALISER == "sigmoid":
            dz = raw * (1.0 - raw) * g
        elif NORMALISER == "softmax":
            dz = raw * (g - tl.sum(raw * g, axis=1)[:, None]) / tau
        else:
            tl.static_assert(NORMALISER == "sparsemax", "unknown normaliser")
            support = candidate & (raw != 0)
            size = tl.maximum(tl.sum(support.to(tl.float32), axis=1), 1.0)
            mean = tl.sum(tl.where(support, g, 0.0), axis=1) / size
            dz = tl.where(support, g - mean[:, None], 0.0)
        dz = tl.where(candidate, dz, 0.0)
        out = router_grad + (run * T + t[:, None]) * NW + column
        tl.store(out, dz, mask=(t < T)[:, None] & (column < NW))


@triton.jit
def _gate_gradient(gate_grad, run, t, d_alpha, d_beta, alpha, beta, T: tl.constexpr, GATES: tl.constexpr):
    """Back through the gates' sigmoids; alpha and beta are zero where there is no task."""
    if GATES == "tied":
        tl.store(gate_grad + run * T + t, (d_alpha - d_beta) * alpha * (1.0 - alpha), mask=t < T)
    else:
        d_alpha = d_alpha * alpha * (1.0 - alpha)
        d_beta = d_beta * beta * (1.0 - beta)
        if GATES == "learned":
            tl.store(gate_grad + (run * T + t) * 2, d_alpha, mask=t < T)
            tl.store(gate_grad + (run * T + t) * 2 + 1, d_beta, mask=t < T)
        else:
            tl.static_assert(GATES == "learned-global", "unknown gates")
            tl.store(gate_grad + run * 2, tl.sum(d_alpha, axis=0))
            tl.store(gate_grad + run * 2 + 1, tl.sum(d_beta, axis=0))


@triton.jit(do_not_specialize=["router_programs", "input_programs"])
def layer(
    dots,
    router,
    keep,
    gate_logits,
    router_grad,
    gate_grad,
    used,
    source_out_grad,
    private_out_grad,
    source_inputs,
    private_inputs,
    source_slope,
    private_slope,
    source_weight,
    private_weight,
    source_input_grad,
    private_input_grad,
    source_weight_grad,
    private_weight_grad,
    source_bias_grad,
    private_bias_grad,
    router_programs,
    input_programs,
    tau,
    T: tl.constexpr,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    NW: tl.constexpr,
    M: tl.constexpr,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    TB: tl.constexpr,
    NB: tl.constexpr,
    BM: tl.constexpr,
    TOGETHER: tl.constexpr,
    NORMALISER: tl.constexpr,
    MASK: tl.constexpr,
    GATES: tl.constexpr,
    PIECES: tl.constexpr,
    PB: tl.constexpr,
    SOURCE_TILES: tl.constexpr,
    ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    PER_PROMPT: tl.constexpr,
    ENCODERS: tl.constexpr,
    DOTS: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    SUMMED: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Gradients of one linear layer y = x W^T + b, (OUTER, INNER), of all runs and encoders.

    Three kinds of programs: `router_programs`, one a run, for the logits; `input_programs`, one a
    tile of dx = dy W, times the slope of what made x; and one a tile of dW = dy^T x, which those
    of the first columns give db, the sum of dy's rows, too.
    """
    program = tl.program_id(0)
    if program < router_programs:
        if DOTS:  # else there are no such programs
            _router_gradient(
                dots, router, keep, gate_logits, router_grad, gate_grad, program, tau,
                T, N, NW, TB, NB, NORMALISER, MASK, GATES, PIECES, PB,
            )  # fmt: skip
    elif program < router_programs + input_programs:
        _input_gradient(
            program - router_programs, used, source_out_grad, private_out_grad, source_slope,
            private_slope, source_weight, private_weight, source_input_grad, private_input_grad,
            N, PRIVATES, M, OUTER, INNER, BM, TOGETHER, SOURCE_TILES, ROW_TILES, TOKEN_TILES,
            PER_PROMPT, BN, BK, PRODUCTS,
        )  # fmt: skip
    else:
        _weight_gradient(
            program - router_programs - input_programs, used, source_out_grad, private_out_grad,
            source_inputs, private_inputs, source_weight_grad, private_weight_grad,
            source_bias_grad, private_bias_grad, N, PRIVATES, M, OUTER, INNER, BM, TOGETHER,
            SOURCE_TILES, ROW_TILES, TOKEN_TILES, PER_PROMPT, ENCODERS, DOWN, ACROSS, SUMMED, PRODUCTS,
        )  # fmt: skip


@triton.jit
def _input_gradient(
    index, used, source_out_grad, private_out_grad, source_slope, private_slope, source_weight,
    private_weight, source_input_grad, private_input_grad, N: tl.constexpr, PRIVATES: tl.constexpr,
    M: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr, BM: tl.constexpr,
    TOGETHER: tl.constexpr, SOURCE_TILES: tl.constexpr, ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr, PER_PROMPT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):  # fmt: skip
    """A tile of dx = dy W, times the slopes where there are some; zeros where a source is not used."""
    run, column_tile, token_tile, tile, is_source, count = tile_of(
        index, N, PRIVATES, SOURCE_TILES, ROW_TILES, TOKEN_TILES, (INNER + BN - 1) // BN
    )
    prompt, token, there = prompts_of(tile, token_tile, tl.arange(0, TOGETHER * BM), count, M, BM, TOGETHER)
    live = used_rows(there, prompt, is_source, used, run, N)
    rows = (run * count + prompt).to(tl.int64) * M + token
    columns = column_tile * BN + tl.arange(0, BN)
    out = rows[:, None] * INNER + columns[None, :]
    inside = (columns < INNER)[None, :]
    d = tl.zeros([BM * TOGETHER, BN], tl.float32)
    if tl.max(live.to(tl.int32), axis=0) != 0:
        encoder = (run * count + tile if PER_PROMPT else run).to(tl.int64)
        d_out = pick(is_source, source_out_grad, private_out_grad, N, PRIVATES)
        weight = pick(is_source, source_weight, private_weight, N, PRIVATES)
        weight += encoder * OUTER * INNER
        d = rows_times(d_out, rows, live, weight, columns, OUTER, INNER, BK, True, PRODUCTS)
        if source_slope is not None or private_slope is not None:
            slope = pick(is_source, source_slope, private_slope, N, PRIVATES)
            d *= tl.load(slope + out, mask=live[:, None] & inside, other=0.0)
    d_inputs = pick(is_source, source_input_grad, private_input_grad, N, PRIVATES)
    tl.store(d_inputs + out, d, mask=there[:, None] & inside)


@triton.jit
def _weight_gradient(
    index, used, source_out_grad, private_out_grad, source_inputs, private_inputs,
    source_weight_grad, private_weight_grad, source_bias_grad, private_bias_grad, N: tl.constexpr,
    PRIVATES: tl.constexpr, M: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr,
    BM: tl.constexpr, TOGETHER: tl.constexpr, SOURCE_TILES: tl.constexpr, ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr, PER_PROMPT: tl.constexpr, ENCODERS: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, SUMMED: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """A tile of dW = dy^T x, summed over all rows of the encoder in order; of the first columns, db too."""
    across = (INNER + ACROSS - 1) // ACROSS
    down = (OUTER + DOWN - 1) // DOWN
    column_tile = index % across
    place = index // across % down * DOWN + tl.arange(0, DOWN)
    columns = column_tile * ACROSS + tl.arange(0, ACROSS)
    run = index // (across * down) // ENCODERS
    encoder = index // (across * down) % ENCODERS
    if PER_PROMPT:
        first, last = encoder, encoder + 1
    elif ENCODERS == 1:  # shared by the roles, or of the one role that there is
        first, last = 0 * encoder, 0 * encoder + ROW_TILES
    else:
        first = encoder * SOURCE_TILES
        last = tl.where(encoder == 0, SOURCE_TILES, ROW_TILES)
    weight_total = tl.zeros([DOWN, ACROSS], tl.float32)
    bias_total = tl.zeros([DOWN], tl.float32)
    steps: tl.constexpr = BM * TOGETHER // SUMMED
    for step in range(first * TOKEN_TILES * steps, last * TOKEN_TILES * steps):
        tile = step // (TOKEN_TILES * steps)
        is_source = tile < SOURCE_TILES
        tile -= tl.where(is_source, 0, SOURCE_TILES)
        count = tl.where(is_source, N, PRIVATES)
        row = step % steps * SUMMED + tl.arange(0, SUMMED)
        prompt, token, live = prompts_of(tile, step // steps % TOKEN_TILES, row, count, M, BM, TOGETHER)
        live = used_rows(live, prompt, is_source, used, run, N)
        rows = (run * count + prompt).to(tl.int64) * M + token
        d_out = pick(is_source, source_out_grad, private_out_grad, N, PRIVATES)
        d_mask = live[:, None] & (place < OUTER)[None, :]
        d = tl.load(d_out + rows[:, None] * OUTER + place[None, :], mask=d_mask, other=0.0)
        inputs = pick(is_source, source_inputs, private_inputs, N, PRIVATES)
        x_mask = live[:, None] & (columns < INNER)[None, :]
        x = tl.load(inputs + rows[:, None] * INNER + columns[None, :], mask=x_mask, other=0.0)
        weight_total = multiply(tl.trans(d), x, weight_total, PRODUCTS)
        bias_total += tl.sum(d, axis=0)
    is_source = first < SOURCE_TILES
    count = tl.where(is_source, N, PRIVATES)
    own = encoder - tl.where(is_source, 0, SOURCE_TILES)
    which = (run * count + own if PER_PROMPT else run).to(tl.int64)
    d_weight = pick(is_source, source_weight_grad, private_weight_grad, N, PRIVATES)
    d_weight += which * OUTER * INNER
    within = (place < OUTER)[:, None] & (columns < INNER)[None, :]
    tl.store(d_weight + place[:, None] * INNER + columns[None, :], weight_total, mask=within)
    if column_tile == 0:
        d_bias = pick(is_source, source_bias_grad, private_bias_grad, N, PRIVATES)
        tl.store(d_bias + which * OUTER + place, bias_total, mask=place < OUTER)


@triton.jit
def logits(
    dots,
    router,
    keep,
    gate_logits,
    router_grad,
    gate_grad,
    tau,
    T: tl.constexpr,
    N: tl.constexpr,
    NW: tl.constexpr,
    TB: tl.constexpr,
    NB: tl.constexpr,
    NORMALISER: tl.constexpr,
    MASK: tl.constexpr,
    GATES: tl.constexpr,
    PIECES: tl.constexpr,
    PB: tl.constexpr,
):
    """One program a run: gradients of the logits, where there is no encoder to go back through."""
    _router_gradient(
        dots, router, keep, gate_logits, router_grad, gate_grad, tl.program_id(0), tau,
        T, N, NW, TB, NB, NORMALISER, MASK, GATES, PIECES, PB,
    )  # fmt: skip
