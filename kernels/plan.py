"""What a compose kernel is compiled for: the sizes and kinds of one cohort, and its tiles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import NamedTuple

PRODUCTS = ("fp32", "tf32x3", "tf32", "bf16")
"""How matrix products multiply: by fused multiply-adds, or by tensor cores after rounding. All of
them add up in fp32; tf32x3 gets about fp32's precision from three tf32 products."""
COMPUTED: dict[str, tuple[str, ...]] = {
    "composition": ("spp", "scp", "pt", "mst", "inside"),
    "encoder": ("mlp", "linear", "none"),
    "encoded": ("both",),
    "sharing": ("per-prompt", "per-role", "shared"),
    "router": ("direct", "constant"),
    "normaliser": ("constant", "softmax", "sparsemax", "sigmoid"),
    "gates": ("none", "fixed", "learned", "learned-global", "tied"),
    "mask": ("none", "before", "after"),
    "products": PRODUCTS,
}
"""What the kernels compute, by the fields of a plan and settings of a shape: an entry of `compt_fast.prompts` names
one of these words as its `kernel`. What is not listed goes to the formula; whoever adds a value adds a
branch to the kernels, whose last one refuses at compile time what none before it knows.
"""
MAX_TASKS = 128
MAX_WEIGHTS = 32
LONG = 32
"""Up to so many rows a tile is bound by the weights it loads; beyond, registers and its rows count too."""


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`; 1 for 0."""
    return 1 << max(number - 1, 0).bit_length()


def ceil(number: int, step: int) -> int:
    """How many steps it takes to reach `number`."""
    return -(-number // step)


@dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles that one program works on, all powers of two of at least 16.

    columns: of a product's output; inner: of the axis that a product sums over (both for up to `LONG`
    rows, see `Plan.columns`); grad_rows, grad_columns: of a weight's gradient; elements: numbers
    of the composition held at once, over all tasks.
    """

    columns: int = 32
    inner: int = 64
    grad_rows: int = 32
    grad_columns: int = 128
    elements: int = 4096


class Constants(NamedTuple):
    """What a compose kernel knows when it is compiled: its argument `PLAN`.

    BLOCK_... are extents of tiles, powers of two, so that what lies behind an axis' end is masked.
    """

    # Kinds, in the words of `COMPUTED`.
    COMPOSITION: str
    NORMALISER: str
    MASK: str
    GATES: str
    PRODUCTS: str
    PRIVATE_ON: bool  # the private prompts are not masked
    # Sizes, by the letters of README.md.
    T: int  # tasks
    N: int  # source prompts
    PRIVATES: int  # private prompts: T or 0
    NW: int  # router weights of a task
    M: int  # tokens of a prompt
    D: int  # width
    H: int  # hidden width, 0 but for `mlp`
    ENCODERS: int  # of a run
    PER_PROMPT: bool  # each prompt has an encoder of its own
    # Axes that every tile holds whole.
    BLOCK_T: int  # tasks
    BLOCK_NW: int  # router weights
    BLOCK_DOTS: int  # N + 1: the sources and the private prompt
    # Tiles of the encoders' products: (rows, columns), where rows are tokens of prompts.
    BLOCK_M: int  # tokens of a prompt
    PROMPTS: int  # prompts a tile
    ROWS: int  # both together
    BLOCK_N: int  # columns of the output
    BLOCK_K: int  # what is summed over at a time
    SOURCE_TILES: int  # tiles of prompts: the sources'
    ROW_TILES: int  # both roles'
    TOKEN_TILES: int  # tiles of a prompt's tokens
    COLUMN_TILES: int  # tiles of D
    # Tiles of a weight's gradient, (outer, inner), summed over rows.
    BLOCK_OUTER: int
    BLOCK_INNER: int
    BLOCK_ROWS: int  # rows that are summed at a time
    # A piece of the targets: one tile of tokens and one of D.
    PIECES: int  # of a run
    BLOCK_PIECES: int  # pieces that are summed at a time
    CHUNK: int  # numbers of a piece that are composed at a time


@dataclass(frozen=True)
class Plan:
    """One cohort's sizes and kinds; R, the number of runs, is not among them.

    tasks T, sources N, privates (T, or 0 without private prompts), length m, d, hidden h (0 but for
    `mlp`). The words are those of `COMPUTED`. per_prompt: each prompt owns its encoder, else one a role;
    shared: one for both roles. tau divides the logits of a softmax; private_on: the private prompts are
    not masked. width is that of the raw tokens which `linear` takes, where it is not d (0).

    Raises `ValueError` for a word that `COMPUTED` has not.
    """

    composition: str
    tasks: int
    sources: int
    privates: int
    n_weights: int
    length: int
    d: int
    hidden: int
    encoder: str
    per_prompt: bool
    shared: bool
    normaliser: str
    tau: float
    gates: str
    mask: str
    private_on: bool
    products: str
    width: int = 0
    tiles: Tiles = Tiles()

    def __post_init__(self) -> None:
        for field in fields(self):
            known, value = COMPUTED.get(field.name), getattr(self, field.name)
            if known is not None and value not in known:
                raise ValueError(f"no kernel computes {field.name} {value!r}, but {', '.join(known)}")

    @classmethod
    @lru_cache
    def parsed(cls, text: str) -> Plan:
        """The plan whose `text` this is."""
        values = json.loads(text)
        return cls(**values | {"tiles": Tiles(**values["tiles"])})

    @property
    def text(self) -> str:
        """The plan as an operator takes it."""
        return json.dumps(asdict(self))

    @property
    def warps(self) -> int:
        """Warps of a program that multiplies: more rows need more registers."""
        return 8 if self.rows > LONG else 4

    @property
    def last_inner(self) -> int:
        """What the encoders' last layer sums over."""
        return self.hidden or self.width or self.d

    @property
    def has_router(self) -> bool:
        return self.normaliser != "constant"

    @property
    def has_logits(self) -> bool:
        """Whether router or gates learn."""
        return self.has_router or self.gates not in ("none", "fixed")

    @property
    def target_length(self) -> int:
        return 2 * self.length if self.composition == "scp" else self.length

    @property
    def tokens(self) -> int:
        """Tokens of one prompt that a program takes: all of them up to 128."""
        smallest = 16 if self.per_prompt else 8
        return min(max(power_of_two(self.length), smallest), 128)

    @property
    def together(self) -> int:
        """Prompts that a program takes: those that share an encoder, up to 64 rows."""
        if self.per_prompt:
            return 1
        most = power_of_two(max(self.sources, self.privates))
        return max(min(most, 64 // self.tokens), 16 // self.tokens, 1)

    @property
    def rows(self) -> int:
        """Rows of a tile, those included that no token stands in."""
        return self.tokens * self.together

    @property
    def summed(self) -> int:
        """Rows that the gradient of a weight takes at a time; more would not stay in registers."""
        return min(self.rows, LONG)

    @property
    def columns(self) -> int:
        """Columns of a product's tile: twice as many where there are many rows, which each tile reads."""
        return self.tiles.columns * (2 if self.rows > LONG else 1)

    @property
    def inner(self) -> int:
        """What a product sums over at a time: half as much with many rows, so that shared memory suffices."""
        return max(self.tiles.inner // (2 if self.rows > LONG else 1), 16)

    @property
    def source_tiles(self) -> int:
        return ceil(self.sources, self.together)

    @property
    def private_tiles(self) -> int:
        return ceil(self.privates, self.together)

    @property
    def row_tiles(self) -> int:
        return self.source_tiles + self.private_tiles

    @property
    def token_tiles(self) -> int:
        return ceil(self.length, self.tokens)

    @property
    def column_tiles(self) -> int:
        """Tiles of d."""
        return ceil(self.d, self.columns)

    @property
    def pieces(self) -> int:
        """Programs a run that compose: tiles of tokens and of d."""
        return self.token_tiles * self.column_tiles

    @property
    def chunk(self) -> int:
        """Numbers of a target prompt that are composed at once, whole rows of a tile."""
        most = max(self.tiles.elements // power_of_two(self.tasks), self.columns)
        return min(most, self.tokens * self.columns)

    @property
    def encoders(self) -> int:
        """Encoders of a run."""
        if self.per_prompt:
            return self.sources + self.privates
        return 1 if self.shared else bool(self.sources) + bool(self.privates)

    def constants(self) -> Constants:
        """What kernels are compiled for; tau is an argument like the tensors, so that another one compiles nothing."""
        tasks, weights = power_of_two(self.tasks), power_of_two(self.n_weights)
        return Constants(
            COMPOSITION=self.composition,
            NORMALISER=self.normaliser,
            MASK=self.mask,
            GATES=self.gates,
            PRODUCTS=self.products,
            PRIVATE_ON=self.private_on,
            T=self.tasks,
            N=self.sources,
            PRIVATES=self.privates,
            NW=self.n_weights,
            M=self.length,
            D=self.d,
            H=self.hidden,
            ENCODERS=self.encoders,
            PER_PROMPT=self.per_prompt,
            BLOCK_T=tasks,
            BLOCK_NW=max(weights, 2),
            BLOCK_DOTS=max(power_of_two(self.sources + 1), 2),
            BLOCK_M=self.tokens,
            PROMPTS=self.together,
            ROWS=self.rows,
            BLOCK_N=self.columns,
            BLOCK_K=self.inner,
            SOURCE_TILES=self.source_tiles,
            ROW_TILES=self.row_tiles,
            TOKEN_TILES=self.token_tiles,
            COLUMN_TILES=self.column_tiles,
            BLOCK_OUTER=self.tiles.grad_rows,
            BLOCK_INNER=self.tiles.grad_columns,
            BLOCK_ROWS=self.summed,
            PIECES=self.pieces,
            BLOCK_PIECES=max(1024 // (tasks * weights), 1),
            CHUNK=self.chunk,
        )
