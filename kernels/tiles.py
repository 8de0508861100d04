"""Device functions that the compose kernels share: a program's tile and its rows, the router, gates, products."""

import triton
import triton.language as tl


@triton.jit
def router_weights(
    router,
    keep,
    run,
    tau,
    T: tl.constexpr,
    NW: tl.constexpr,
    TB: tl.constexpr,
    NB: tl.constexpr,
    NORMALISER: tl.constexpr,
    MASK: tl.constexpr,
):
    """A run's weights (TB, NB) before masked ones are zeroed, and which of them are candidates."""
    t = tl.arange(0, TB)[:, None]
    n = tl.arange(0, NB)[None, :]
    candidate = (t < T) & (n < NW)
    if MASK == "before":
        candidate = candidate & (tl.load(keep + n, mask=n < NW, other=0.0) != 0)
    else:
        tl.static_assert(MASK == "none" or MASK == "after", "unknown mask")
    if NORMALISER == "constant":
        count = tl.sum(candidate.to(tl.float32), axis=1)[:, None]
        w = tl.where(candidate, 1.0 / tl.maximum(count, 1.0), 0.0)
    else:
        z = tl.load(router + (run * T + t) * NW + n, mask=candidate, other=0.0)
        if NORMALISER == "sigmoid":
            w = tl.where(candidate, 1.0 / (1.0 + tl.exp(-z)), 0.0)
        else:
            z = z / tau
            top = tl.max(tl.where(candidate, z, float("-inf")), axis=1)[:, None]
            z = tl.where(candidate, z - tl.where(top == float("-inf"), 0.0, top), 0.0)
            if NORMALISER == "softmax":
                e = tl.where(candidate, tl.exp(z), 0.0)
                total = tl.sum(e, axis=1)[:, None]
                w = e / tl.where(total == 0, 1.0, total)  # no candidate: no weight
            else:
                tl.static_assert(NORMALISER == "sparsemax", "unknown normaliser")
                w = sparsemax(z, candidate, n, NW)
    return w, candidate


@triton.jit
def sparsemax(z, candidate, n, NW: tl.constexpr):
    """Sparsemax of each row of z, whose largest candidate is 0, without sorting.

    j is in the support if and only if sum_l max(z_l - z_j, 0) < 1: ties need no care.
    """
    low = tl.where(candidate, z, -1e30)
    excess = tl.zeros_like(z)
    for i in range(NW):
        z_i = tl.sum(tl.where(n == i, low, 0.0), axis=1)[:, None]
        excess += tl.maximum(z_i - z, 0.0)
    support = candidate & (excess < 1.0)
    size = tl.maximum(tl.sum(support.to(tl.float32), axis=1), 1.0)
    threshold = (tl.sum(tl.where(support, z, 0.0), axis=1) - 1.0) / size
    poison = tl.sum(z * 0.0, axis=1)  # comparisons drop a NaN, and its run has to stop
    return tl.where(candidate, tl.maximum(z - threshold[:, None], 0.0) + poison[:, None], 0.0)


@triton.jit
def switched(w, keep, NW: tl.constexpr, NB: tl.constexpr, MASK: tl.constexpr):
    """The weights that count: those of masked prompts set to zero."""
    if MASK == "after":
        n = tl.arange(0, NB)[None, :]
        w = w * tl.load(keep + n, mask=n < NW, other=0.0)
    else:
        tl.static_assert(MASK == "none" or MASK == "before", "unknown mask")
    return w


@triton.jit
def asked_for(w, prompt, is_source, NB: tl.constexpr):
    """Which rows are no token of a source that no task uses, from the weights (TB, NB)."""
    source_used = tl.max((w != 0).to(tl.int32), axis=0)
    mine = prompt[:, None] == tl.arange(0, NB)[None, :]
    row_used = tl.max(tl.where(mine, source_used[None, :], 0), axis=1)
    return tl.where(is_source, row_used, 1) != 0


@triton.jit
def gate_pair(gates, run, t, T: tl.constexpr, GATES: tl.constexpr):
    """alpha and beta of the tasks t of a run."""
    if GATES == "fixed" or GATES == "none":
        alpha = tl.where(t < T, 1.0, 0.0)
        beta = alpha
    elif GATES == "tied":
        alpha = 1.0 / (1.0 + tl.exp(-tl.load(gates + run * T + t, mask=t < T, other=0.0)))
        beta = 1.0 - alpha
    else:
        tl.static_assert(GATES == "learned" or GATES == "learned-global", "unknown gates")
        row = run * T + t if GATES == "learned" else run + 0 * t
        alpha = 1.0 / (1.0 + tl.exp(-tl.load(gates + row * 2, mask=t < T, other=0.0)))
        beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + row * 2 + 1, mask=t < T, other=0.0)))
    return alpha, beta


@triton.jit
def target_tokens(COMPOSITION: tl.constexpr, M: tl.constexpr):
    """Tokens of a target prompt; no kernel gets past here with a composition that none knows."""
    if COMPOSITION == "scp":
        length = 2 * M
    else:
        mixes: tl.constexpr = COMPOSITION == "spp" or COMPOSITION == "mst" or COMPOSITION == "inside"
        tl.static_assert(mixes or COMPOSITION == "pt", "unknown composition")
        length = M
    return length


@triton.jit
def pick(is_source, source, private, N: tl.constexpr, PRIVATES: tl.constexpr):
    """The pointer of the tile's role; a role without prompts has none."""
    if N == 0:
        found = private
    elif PRIVATES == 0:
        found = source
    else:
        found = tl.where(is_source, source, private)
    return found


@triton.jit
def tile_of(
    index,
    N: tl.constexpr,
    PRIVATES: tl.constexpr,
    SOURCE_TILES: tl.constexpr,
    ROW_TILES: tl.constexpr,
    TOKEN_TILES: tl.constexpr,
    COLUMN_TILES: tl.constexpr,
):
    """Run and tile of a linear layer's program: tiles of columns, of tokens and, within its role, of
    prompts; whether the role is the sources', and its number of prompts.
    """
    token_tile = index % TOKEN_TILES
    tile = index // TOKEN_TILES % ROW_TILES
    column_tile = index // (TOKEN_TILES * ROW_TILES) % COLUMN_TILES
    run = index // (TOKEN_TILES * ROW_TILES * COLUMN_TILES)
    is_source = tile < SOURCE_TILES
    tile -= tl.where(is_source, 0, SOURCE_TILES)
    return run, column_tile, token_tile, tile, is_source, tl.where(is_source, N, PRIVATES)


@triton.jit
def piece_of(program, TOKEN_TILES: tl.constexpr, COLUMN_TILES: tl.constexpr):
    """Run and piece of the targets, a tile of tokens and one of d, of a program that composes."""
    return program // (TOKEN_TILES * COLUMN_TILES), program % TOKEN_TILES, program // TOKEN_TILES % COLUMN_TILES


@triton.jit
def prompts_of(tile, token_tile, row, count, M: tl.constexpr, BM: tl.constexpr, TOGETHER: tl.constexpr):
    """Prompt and token of rows of a role's tile, and which of them there are; the role has `count` prompts."""
    prompt = tile * TOGETHER + row // BM
    token = token_tile * BM + row % BM
    return prompt, token, (prompt < count) & (token < M)


@triton.jit
def used_rows(live, prompt, is_source, used, run, N: tl.constexpr):
    """Those of the rows that are no token of a source that no task uses."""
    if N > 0:
        asked = live & (tl.where(is_source, prompt, N) < N)
        live = live & (tl.load(used + run * N + prompt, mask=asked, other=1) != 0)
    return live


@triton.jit
def multiply(a, b, total, PRODUCTS: tl.constexpr):
    """total + a @ b, all fp32, the factors rounded as PRODUCTS says."""
    if PRODUCTS == "bf16":
        total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    elif PRODUCTS == "fp32":
        total = tl.dot(a, b, total, input_precision="ieee")
    else:
        tl.static_assert(PRODUCTS == "tf32" or PRODUCTS == "tf32x3", "unknown products")
        total = tl.dot(a, b, total, input_precision=PRODUCTS)
    return total


@triton.jit
def rows_times(
    a,
    rows,
    live,
    weight,
    columns,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BK: tl.constexpr,
    BACK: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """a[rows] (., INNER) @ weight[columns].T, weight (OUTER, INNER): the product of a linear layer.

    With BACK, back through one: a[rows] @ weight[:, columns], weight (INNER, OUTER).
    """
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, INNER, BK):
        k = start + tl.arange(0, BK)
        x_mask = live[:, None] & (k < INNER)[None, :]
        x = tl.load(a + rows[:, None] * INNER + k[None, :], mask=x_mask, other=0.0)
        if BACK:
            w_mask = (k < INNER)[:, None] & (columns < OUTER)[None, :]
            w = tl.load(weight + k[:, None] * OUTER + columns[None, :], mask=w_mask, other=0.0)
        else:
            w_mask = (columns < OUTER)[:, None] & (k < INNER)[None, :]
            w = tl.trans(tl.load(weight + columns[:, None] * INNER + k[None, :], mask=w_mask, other=0.0))
        total = multiply(x, w, total, PRODUCTS)
    return total
