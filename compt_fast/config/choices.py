"""Words that a flag takes and the module behind it acts on, in one place that needs no torch.

The presets stand in `compt_fast.config.presets`.
"""

from __future__ import annotations

from compt_fast.utils.registry import names_in

AUTO = "auto"
"""What follows from the rest: of normalisations see `compt_fast.prompts.shape.PromptShape.normaliser`, of engines it is
the first one that supports the checkpoint.
"""
ENCODER_NAMES = names_in("compt_fast.prompts.encoders")
HIDDEN = ("mlp", "lstm", "residual", "low-rank", "superpos")
"""The encoders that have an inner width."""
SHARINGS = ("per-prompt", "per-role", "shared")
ROUTER_NAMES = names_in("compt_fast.prompts.routers")
NORMALISATION_NAMES = (AUTO, *names_in("compt_fast.prompts.normalisations"))
GATE_NAMES = names_in("compt_fast.prompts.gates")
INITS = ("uniform", "vocab")
"""What random prompt tokens are drawn from."""
LABEL_MODES = ("natural", "synthetic", "numeric")
SAMPLINGS = ("balanced", "random")
PROMPT_POSITIONS = ("prepend", "append")
ENGINE_NAMES = (AUTO, *names_in("compt_fast.models.engines"))
INT8 = "int8"
"""The trunk's numbers where it only infers."""
SCORING_NAMES = names_in("compt_fast.evaluation.scorings")
TRACKER_NAMES = names_in("compt_fast.training.trackers")
SAMPLER_NAMES = names_in("compt_fast.search.samplers")
EXPORT_NAMES = names_in("compt_fast.exports")
NONE = "none"
"""In place of a setting that a job began with, and goes on without."""
HALVINGS = ASYNCHRONOUS, SYNCHRONOUS = "async", "sync"
"""When halving decides who goes on: of those that have come to a rung so far, or once all have."""
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
