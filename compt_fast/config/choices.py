"""Words that a flag takes and the module behind it acts on, in one place that needs no torch.

The presets stand in `compt_fast.config.presets`.
"""

from __future__ import annotations

from compt_fast.utils.registry import names_in

COMPOSITIONS = ("spp", "scp", "pt", "mst", "inside")
ENCODERS = ("mlp", "linear", "lstm", "none")
SHARINGS = ("per-prompt", "per-role", "shared")
ROUTERS = ("direct", "constant", "relaxed-bernoulli")
NORMALISATIONS = ("auto", "softmax", "sparsemax", "sigmoid", "softmax-temperature")
GATES = ("fixed", "learned", "learned-global", "tied", "input")
INITS = ("uniform", "vocab")
"""What random prompt tokens are drawn from."""
LABEL_MODES = ("natural", "synthetic", "numeric")
SAMPLINGS = ("balanced", "random")
PROMPT_POSITIONS = ("prepend", "append")
ENGINES = ("auto", *names_in("compt_fast.models.engines"))
"""With "auto" the first one that supports the checkpoint."""
FITS = ("first", "mean-pool", "repeat")
"""Ways to make a stored prompt longer or shorter."""
RETRAIN = "train"
"""Beside them: train one of the right length instead."""
MASKINGS = ("before", "after")
"""When masked sources lose their weights: before the router normalises, or after."""
MASKED_TOKENS = ("zero", "remove")
"""What becomes of the tokens of a masked half of a concatenation."""
RANKINGS = ("test", "development")
"""The scores by which a report says what is best."""
