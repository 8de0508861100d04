"""Device code of the composition: `prepare`, then `encode` or, without an encoder, `gather`."""

import triton
import triton.language as tl

from .tiles import (
    asked_for,
    gate_pair,
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

INV_SQRT_2 = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit(do_not_specialize=["runs"])
def prepare(
    router,
    keep,
    gate_logits,
    source_tokens,
    private_tokens,
    source_weight,
    source_bias,
    private_weight,
    private_bias,
    weights,
    gates,
    used,
    arrivals,
    source_hidden,
    source_slope,
    private_hidden,
    private_slope,
    runs,
    tau,
    T: tl.constexpr,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    NW: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    TB: tl.constexpr,
    NB: tl.constexpr,
    BM: tl.constexpr,
    TOGETHER: tl.constexpr,
    NORMALISER: tl.constexpr,
    MASK: tl.constexpr,
    GATES: tl.constexpr,
    PIECES: tl.constexpr,
    SOURCE_TILES: tl.constexpr,
    ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    PER_PROMPT: tl.constexpr,
    SAVE: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """One program a run: weights, gates, used sources. With H: one a tile of the hidden layer, too."""
    program = tl.program_id(0)
    if program < runs:
        _prepare_run(
            router, keep, gate_logits, weights, gates, used, arrivals, program, tau,
            T, N, NW, TB, NB, NORMALISER, MASK, GATES, PIECES,
        )  # fmt: skip
    elif H > 0:
        index = program - runs
        run, column_tile, token_tile, tile, is_source, count = tile_of(
            index, N, PRIVATES, SOURCE_TILES, ROW_TILES, TOKEN_TILES, (H + BN - 1) // BN
        )
        prompt, token, live = prompts_of(tile, token_tile, tl.arange(0, TOGETHER * BM), count, M, BM, TOGETHER)
        if NORMALISER == "sparsemax":  # another program is writing `used` just now
            w, _ = router_weights(router, keep, run, tau, T, NW, TB, NB, NORMALISER, MASK)
            live = live & asked_for(switched(w, keep, NW, NB, MASK), prompt, is_source, NB)
        if tl.max(live.to(tl.int32), axis=0) != 0:
            rows = (run * count + prompt).to(tl.int64) * M + token
            encoder = (run * count + tile if PER_PROMPT else run).to(tl.int64)
            weight = pick(is_source, source_weight, private_weight, N, PRIVATES)
            bias = pick(is_source, source_bias, private_bias, N, PRIVATES)
            _hidden_tile(
                pick(is_source, source_tokens, private_tokens, N, PRIVATES), rows, live,
                weight + encoder * H * D, bias + encoder * H, column_tile * BN + tl.arange(0, BN),
                pick(is_source, source_hidden, private_hidden, N, PRIVATES),
                pick(is_source, source_slope, private_slope, N, PRIVATES) if SAVE else None,
                D, H, BK, SAVE, PRODUCTS,
            )  # fmt: skip


@triton.jit
def _hidden_tile(
    tokens, rows, live, weight, bias, columns, hidden, slope,
    D: tl.constexpr, H: tl.constexpr, BK: tl.constexpr, SAVE: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """GELU of the first layer's output, and its slope for the backward pass."""
    y = rows_times(tokens, rows, live, weight, columns, D, H, BK, False, PRODUCTS)
    y += tl.load(bias + columns, mask=columns < H, other=0.0)[None, :]
    share = 0.5 * (1.0 + tl.erf(y * INV_SQRT_2))
    out = rows[:, None] * H + columns[None, :]
    there = live[:, None] & (columns < H)[None, :]
    tl.store(hidden + out, y * share, mask=there)
    if SAVE:
        tl.store(slope + out, share + y * tl.exp(-0.5 * y * y) * INV_SQRT_2PI, mask=there)


@triton.jit
def _prepare_run(
    router, keep, gate_logits, weights, gates, used, arrivals, run, tau,
    T: tl.constexpr, N: tl.constexpr, NW: tl.constexpr, TB: tl.constexpr, NB: tl.constexpr,
    NORMALISER: tl.constexpr, MASK: tl.constexpr, GATES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    t = tl.arange(0, TB)
    n = tl.arange(0, NB)
    if NW > 0:
        w, _ = router_weights(router, keep, run, tau, T, NW, TB, NB, NORMALISER, MASK)
        w = switched(w, keep, NW, NB, MASK)
        there = (t < T)[:, None] & (n < NW)[None, :]
        tl.store(weights + (run * T + t[:, None]) * NW + n[None, :], w, mask=there)
        tl.store(used + run * N + n, tl.max((w != 0).to(tl.int32), axis=0), mask=n < N)
    alpha, beta = gate_pair(gate_logits, run, t, T, GATES)
    tl.store(gates + (run * T + t) * 2, alpha, mask=t < T)
    tl.store(gates + (run * T + t) * 2 + 1, beta, mask=t < T)
    for start in range(0, PIECES, 128):
        piece = start + tl.arange(0, 128)
        tl.store(arrivals + run * PIECES + piece, tl.zeros_like(piece), mask=piece < PIECES)


@triton.jit
def _compose_piece(
    source, private, weights, gates, used, targets, run, token_tile, column_tile,
    COMPOSITION: tl.constexpr, PRIVATE_ON: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
    PRIVATES: tl.constexpr, NW: tl.constexpr, M: tl.constexpr, D: tl.constexpr, TB: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The targets of all tasks of a run, of one tile of tokens and one of d."""
    t = tl.arange(0, TB)
    slot = run * T + t
    length = target_tokens(COMPOSITION, M)
    for start in range(0, BM * BN, CHUNK):
        e = start + tl.arange(0, CHUNK)
        token = token_tile * BM + e // BN
        column = column_tile * BN + e % BN
        there = (token < M) & (column < D)
        both = (t < T)[:, None] & there[None, :]
        place = (token * D + column)[None, :]
        mixture = tl.zeros([TB, CHUNK], tl.float32)
        if N > 0:
            for i in tl.range(0, N, loop_unroll_factor=4):
                asked = there & (column < tl.where(tl.load(used + run * N + i) != 0, D, 0))
                prompt = source + (run * N + i).to(tl.int64) * M * D
                p = tl.load(prompt + token * D + column, mask=asked, other=0.0)
                w = tl.load(weights + slot * NW + i, mask=t < T, other=0.0)
                mixture += w[:, None] * p[None, :]
        alpha = tl.load(gates + slot * 2, mask=t < T, other=0.0)[:, None]
        beta = tl.load(gates + slot * 2 + 1, mask=t < T, other=0.0)[:, None]
        own = tl.zeros([TB, CHUNK], tl.float32)
        if PRIVATES > 0 and PRIVATE_ON:
            prompt = private + slot.to(tl.int64)[:, None] * (M * D)
            own = tl.load(prompt + place, mask=both, other=0.0)
        out = targets + slot.to(tl.int64)[:, None] * (length * D) + place
        kind = targets.dtype.element_ty
        if COMPOSITION == "scp":
            tl.store(out, (beta * mixture).to(kind), mask=both)
            tl.store(out + M * D, (alpha * own).to(kind), mask=both)
        elif COMPOSITION == "inside" and PRIVATES > 0:
            w = tl.load(weights + slot * NW + N, mask=t < T, other=0.0)[:, None]
            tl.store(out, (mixture + w * own).to(kind), mask=both)
        else:  # alpha and beta are 1 where there are no gates, absent terms 0; `target_tokens` knows all compositions
            tl.store(out, (alpha * own + beta * mixture).to(kind), mask=both)


@triton.jit
def encode(
    source_inputs,
    private_inputs,
    source_weight,
    source_bias,
    private_weight,
    private_bias,
    weights,
    gates,
    used,
    arrivals,
    source,
    private,
    targets,
    COMPOSITION: tl.constexpr,
    PRIVATE_ON: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    NW: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    INNER: tl.constexpr,
    TB: tl.constexpr,
    BM: tl.constexpr,
    TOGETHER: tl.constexpr,
    PIECES: tl.constexpr,
    SOURCE_TILES: tl.constexpr,
    ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    PER_PROMPT: tl.constexpr,
    CHUNK: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """One program a tile of the last layer; the last to finish of a piece composes its targets.

    Who is last does not matter to the result: it reads all prompts of the piece in a fixed order.
    """
    run, column_tile, token_tile, tile, is_source, count = tile_of(
        tl.program_id(0), N, PRIVATES, SOURCE_TILES, ROW_TILES, TOKEN_TILES, (D + BN - 1) // BN
    )
    prompt, token, live = prompts_of(tile, token_tile, tl.arange(0, TOGETHER * BM), count, M, BM, TOGETHER)
    live = used_rows(live, prompt, is_source, used, run, N)
    if tl.max(live.to(tl.int32), axis=0) != 0:
        rows = (run * count + prompt).to(tl.int64) * M + token
        encoder = (run * count + tile if PER_PROMPT else run).to(tl.int64)
        inputs = pick(is_source, source_inputs, private_inputs, N, PRIVATES)
        weight = pick(is_source, source_weight, private_weight, N, PRIVATES) + encoder * D * INNER
        bias = pick(is_source, source_bias, private_bias, N, PRIVATES) + encoder * D
        columns = column_tile * BN + tl.arange(0, BN)
        p = rows_times(inputs, rows, live, weight, columns, INNER, D, BK, False, PRODUCTS)
        p += tl.load(bias + columns, mask=columns < D, other=0.0)[None, :]
        encoded = pick(is_source, source, private, N, PRIVATES)
        there = live[:, None] & (columns < D)[None, :]
        tl.store(encoded + rows[:, None] * D + columns[None, :], p, mask=there)
    tl.debug_barrier()  # every thread's stores come before the program's arrival
    piece = run * PIECES + token_tile * ((D + BN - 1) // BN) + column_tile
    if tl.atomic_add(arrivals + piece, 1, sem="acq_rel") == ROW_TILES - 1:
        _compose_piece(
            source, private, weights, gates, used, targets, run, token_tile, column_tile,
            COMPOSITION, PRIVATE_ON, T, N, PRIVATES, NW, M, D, TB, BM, BN, CHUNK,
        )  # fmt: skip


@triton.jit
def gather(
    source,
    private,
    weights,
    gates,
    used,
    targets,
    COMPOSITION: tl.constexpr,
    PRIVATE_ON: tl.constexpr,
    T: tl.constexpr,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    NW: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    TB: tl.constexpr,
    BM: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    CHUNK: tl.constexpr,
    BN: tl.constexpr,
):
    """One program a piece of the targets, from prompts that need no encoder."""
    run, token_tile, column_tile = piece_of(tl.program_id(0), TOKEN_TILES, (D + BN - 1) // BN)
    _compose_piece(
        source, private, weights, gates, used, targets, run, token_tile, column_tile,
        COMPOSITION, PRIVATE_ON, T, N, PRIVATES, NW, M, D, TB, BM, BN, CHUNK,
    )  # fmt: skip
