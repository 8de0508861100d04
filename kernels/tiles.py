"""Device functions that the compose kernels share: a program's tile and its rows, router, gates, products.

`PLAN` is `plan.Constants`, and its comments say what T, BLOCK_M and the rest are; groups of tensors are those of
`arguments.py`. A tile's extents are powers of two; places behind an axis' end are masked: loads give 0 there, and
nothing is stored. Offsets are int64 from where they may pass 2^31.
"""

import triton
import triton.language as tl


@triton.jit
def router_weights(logits, run, PLAN: tl.constexpr):
    """A run's weights (BLOCK_T, BLOCK_NW) before masked ones are zeroed, and which of them are candidates."""
    # The whole table of a run is one tile: tasks down, weights across. Normalisation sums and takes maxima along the
    # weights, so that what is no candidate (padding, and prompts that are masked before) must count as nothing there.
    t = tl.arange(0, PLAN.BLOCK_T)[:, None]
    n = tl.arange(0, PLAN.BLOCK_NW)[None, :]
    candidate = (t < PLAN.T) & (n < PLAN.NW)
    if PLAN.MASK == "before":
        candidate = candidate & (tl.load(logits.keep + n, mask=n < PLAN.NW, other=0.0) != 0)
    else:
        tl.static_assert(PLAN.MASK == "none" or PLAN.MASK == "after", "unknown mask")
    if PLAN.NORMALISER == "constant":
        count = tl.sum(candidate.to(tl.float32), axis=1)[:, None]
        w = tl.where(candidate, 1.0 / tl.maximum(count, 1.0), 0.0)
    else:
        z = tl.load(logits.router + (run * PLAN.T + t) * PLAN.NW + n, mask=candidate, other=0.0)
        if PLAN.NORMALISER == "sigmoid":
            w = tl.where(candidate, 1.0 / (1.0 + tl.exp(-z)), 0.0)
        else:
            # The largest candidate is subtracted; where a row has none, top is -inf, and 0 is subtracted instead.
            z = z / logits.tau
            top = tl.max(tl.where(candidate, z, float("-inf")), axis=1)[:, None]
            z = tl.where(candidate, z - tl.where(top == float("-inf"), 0.0, top), 0.0)
            if PLAN.NORMALISER == "softmax":
                e = tl.where(candidate, tl.exp(z), 0.0)
                total = tl.sum(e, axis=1)[:, None]
                w = e / tl.where(total == 0, 1.0, total)  # no candidate: no weight
            else:
                tl.static_assert(PLAN.NORMALISER == "sparsemax", "unknown normaliser")
                w = sparsemax(z, candidate, n, PLAN.NW)
    return w, candidate


@triton.jit
def sparsemax(z, candidate, n, NW: tl.constexpr):
    """Sparsemax of each row of z, whose largest candidate is 0, without sorting.

    j is in the support if and only if sum_l max(z_l - z_j, 0) < 1: ties need no care.
    """
    # A loop over columns: registers have no index, so that column i is picked out by a sum with all others zeroed.
    # What is no candidate is so low that it exceeds nothing.
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
def apply_mask(w, keep, PLAN: tl.constexpr):
    """The weights that count: those of masked prompts set to zero."""
    if PLAN.MASK == "after":
        n = tl.arange(0, PLAN.BLOCK_NW)[None, :]
        w = w * tl.load(keep + n, mask=n < PLAN.NW, other=0.0)
    else:
        tl.static_assert(PLAN.MASK == "none" or PLAN.MASK == "before", "unknown mask")
    return w


@triton.jit
def gate_pair(gates, run, t, PLAN: tl.constexpr):
    """alpha and beta of the tasks t of a run, from the logits of the gates."""
    if PLAN.GATES == "fixed" or PLAN.GATES == "none":
        alpha = tl.where(t < PLAN.T, 1.0, 0.0)
        beta = alpha
    elif PLAN.GATES == "tied":
        alpha = 1.0 / (1.0 + tl.exp(-tl.load(gates + run * PLAN.T + t, mask=t < PLAN.T, other=0.0)))
        beta = 1.0 - alpha
    else:
        tl.static_assert(PLAN.GATES == "learned" or PLAN.GATES == "learned-global", "unknown gates")
        row = run * PLAN.T + t if PLAN.GATES == "learned" else run + 0 * t  # one pair of logits for all tasks
        alpha = 1.0 / (1.0 + tl.exp(-tl.load(gates + row * 2, mask=t < PLAN.T, other=0.0)))
        beta = 1.0 / (1.0 + tl.exp(-tl.load(gates + row * 2 + 1, mask=t < PLAN.T, other=0.0)))
    return alpha, beta


@triton.jit
def target_tokens(PLAN: tl.constexpr):
    """Tokens of a target prompt; no kernel gets past here with a composition that none knows."""
    if PLAN.COMPOSITION == "scp":
        length = 2 * PLAN.M
    else:
        mixes: tl.constexpr = PLAN.COMPOSITION == "spp" or PLAN.COMPOSITION == "mst" or PLAN.COMPOSITION == "inside"
        tl.static_assert(mixes or PLAN.COMPOSITION == "pt", "unknown composition")
        length = PLAN.M
    return length


@triton.jit
def pick(is_source, source, private, PLAN: tl.constexpr):
    """The pointer of the tile's role; a role without prompts has none."""
    if PLAN.N == 0:
        found = private
    elif PLAN.PRIVATES == 0:
        found = source
    else:
        found = tl.where(is_source, source, private)
    return found


@triton.jit
def tile_of(index, COLUMN_TILES: tl.constexpr, PLAN: tl.constexpr):
    """Run and tile of a linear layer's program: tiles of columns, of tokens and, within its role, of
    prompts; whether the role is the sources', and its number of prompts.
    """
    # Neighbours in launch order have other rows and the same columns: a weight that rows share comes from memory once
    # and from L2 for the others. The sources' tiles of prompts come first, then the private ones'.
    token_tile = index % PLAN.TOKEN_TILES
    tile = index // PLAN.TOKEN_TILES % PLAN.ROW_TILES
    column_tile = index // (PLAN.TOKEN_TILES * PLAN.ROW_TILES) % COLUMN_TILES
    run = index // (PLAN.TOKEN_TILES * PLAN.ROW_TILES * COLUMN_TILES)
    is_source = tile < PLAN.SOURCE_TILES
    tile -= tl.where(is_source, 0, PLAN.SOURCE_TILES)
    return run, column_tile, token_tile, tile, is_source, tl.where(is_source, PLAN.N, PLAN.PRIVATES)


@triton.jit
def piece_of(program, PLAN: tl.constexpr):
    """Run and piece of the targets, a tile of tokens and one of d, of a program that composes."""
    run = program // (PLAN.TOKEN_TILES * PLAN.COLUMN_TILES)
    return run, program % PLAN.TOKEN_TILES, program // PLAN.TOKEN_TILES % PLAN.COLUMN_TILES


@triton.jit
def prompts_of(tile, token_tile, row, count, PLAN: tl.constexpr):
    """Prompt and token of rows of a role's tile, and which of them there are; the role has `count` prompts."""
    # A tile is PROMPTS prompts of BLOCK_M tokens below one another. Rows behind the last
    # prompt, and behind each prompt's last token, are dead.
    prompt = tile * PLAN.PROMPTS + row // PLAN.BLOCK_M
    token = token_tile * PLAN.BLOCK_M + row % PLAN.BLOCK_M
    return prompt, token, (prompt < count) & (token < PLAN.M)


@triton.jit
def rows_in_use(live, prompt, is_source, used, run, PLAN: tl.constexpr):
    """The rows that are not of a source without weight in every task, by what `prepare` noted."""
    if PLAN.N > 0:
        asked = live & (tl.where(is_source, prompt, PLAN.N) < PLAN.N)
        live = live & (tl.load(used + run * PLAN.N + prompt, mask=asked, other=1) != 0)
    return live


@triton.jit
def rows_with_weight(w, prompt, is_source, PLAN: tl.constexpr):
    """The same from the weights (BLOCK_T, BLOCK_NW) themselves."""
    # Each row compares its prompt with all columns of w: registers have no index that could be looked up.
    source_used = tl.max((w != 0).to(tl.int32), axis=0)
    mine = prompt[:, None] == tl.arange(0, PLAN.BLOCK_NW)[None, :]
    row_used = tl.max(tl.where(mine, source_used[None, :], 0), axis=1)
    return tl.where(is_source, row_used, 1) != 0


@triton.jit
def multiply(a, b, total, PLAN: tl.constexpr):
    """total + a @ b, all fp32, the factors rounded as PRODUCTS says."""
    if PLAN.PRODUCTS == "bf16":
        total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    elif PLAN.PRODUCTS == "fp32":
        total = tl.dot(a, b, total, input_precision="ieee")
    else:
        tl.static_assert(PLAN.PRODUCTS == "tf32" or PLAN.PRODUCTS == "tf32x3", "unknown products")
        total = tl.dot(a, b, total, input_precision=PLAN.PRODUCTS)
    return total


@triton.jit
def rows_times(
    a, rows, live, weight, columns, INNER: tl.constexpr, OUTER: tl.constexpr, BACK: tl.constexpr, PLAN: tl.constexpr
):
    """a[rows] (., INNER) @ weight[columns].T, weight (OUTER, INNER): the product of a linear layer.

    With BACK, back through one: a[rows] @ weight[:, columns], weight (INNER, OUTER).
    """
    # The sums (rows, columns) stay in registers while BLOCK_K numbers of both factors pass at a time. Dead rows and
    # columns behind the end are multiplied as zeros; INNER need be no multiple of BLOCK_K for the same reason.
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, INNER, PLAN.BLOCK_K):
        k = start + tl.arange(0, PLAN.BLOCK_K)
        x_mask = live[:, None] & (k < INNER)[None, :]
        x = tl.load(a + rows[:, None] * INNER + k[None, :], mask=x_mask, other=0.0)
        if BACK:
            w_mask = (k < INNER)[:, None] & (columns < OUTER)[None, :]
            w = tl.load(weight + k[:, None] * OUTER + columns[None, :], mask=w_mask, other=0.0)
        else:
            # Read along its rows, which are contiguous, and transposed in registers or on the way to shared memory.
            w_mask = (columns < OUTER)[:, None] & (k < INNER)[None, :]
            w = tl.trans(tl.load(weight + columns[:, None] * INNER + k[None, :], mask=w_mask, other=0.0))
        total = multiply(x, w, total, PLAN)
    return total
