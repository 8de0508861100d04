"""Presets and how a run's configuration is resolved from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compt_fast.config.presets import PRESETS, Preset
from compt_fast.config.resolve import resolve
from compt_fast.config.run import RUN_FLAGS
from compt_fast.utils.errors import InputError

DEFAULTS = {flag.field: flag.default[0] if flag.default else None for flag in RUN_FLAGS.values()}


def choice(**changes: Any) -> dict[str, Any]:
    return DEFAULTS | {"method": "spp"} | changes


# Composition, sources, private, length, rates and epochs as ComPT and CrossPT give them, T = 8.
PUBLISHED = {
    "spp": ("spp", 3, True, 5, (0.07, 0.02, 0.1)),
    "scp": ("scp", 3, True, 5, (0.1, 0.1, 0.1)),
    "pt": ("pt", 0, True, 5, (0.0, 0.07, 0.0)),
    "p": ("pt", 0, True, 10, (0.0, 0.07, 0.0)),
    "mst": ("mst", 1, False, 5, (0.15, 0.0, 0.1)),
    "sl": ("inside", 1, False, 10, (0.15, 0.0, 0.1)),
    "slp": ("inside", 1, True, 10, (0.15, 0.07, 0.1)),
    "sln": ("inside", 8, False, 10, (0.15, 0.0, 0.1)),
    "slpn": ("inside", 8, True, 10, (0.15, 0.07, 0.1)),
    "pi": ("pt", 0, True, 10, (0.0, 0.02, 0.0)),
    "sil": ("inside", 8, False, 10, (0.05, 0.0, 0.1)),
    "sip": ("inside", 8, True, 10, (0.0, 0.02, 0.1)),
    "silp": ("inside", 8, True, 10, (0.05, 0.02, 0.1)),
    "mpt-source": ("factored", 1, False, 100, (0.3, 0.3, 0.0)),
    "mpt": ("factored", 1, False, 100, (0.3, 0.4, 0.0)),
    "mpt-m": ("factored", 1, False, 100, (0.3, 0.4, 0.0)),
    "smop": ("inside", 4, False, 5, (0.5, 0.0, 0.5)),
}
OTHERS = {
    "dept": {"prompt_length": 40, "lr_private": 0.3, "lr_update": 5e-3, "update_length": 256, "encoder": "none"},
    "adept": {"prompt_length": 60, "lr_private": 0.3, "lr_update": 1e-4, "update_length": 0, "encoder": "none"},
    "residual": {"prompt_length": 10, "lr_private": 0.3, "encoder_hidden": 800, "encoder": "residual"},
    "low-rank": {"prompt_length": 100, "lr_private": 0.3, "encoder_hidden": 10, "encoder": "low-rank"},
    "superpos": {"prompt_length": 10, "lr_encoder": 0.0, "encoder_hidden": 128, "encoder": "superpos"},
}
"""Settings of the methods of other papers."""
STORED = {"pi": ("random", "stored")} | dict.fromkeys(("sil", "sip", "silp"), ("stored", "random"))
STARTS = STORED | dict.fromkeys(("mpt", "mpt-m"), ("shared", "random"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_those_of_the_papers(name: str) -> None:
    config = resolve(choice(method=name), tasks=8, d_model=32)
    composition, sources, private, length, rates = PUBLISHED[name]
    assert (config.composition, config.sources, config.private) == (composition, sources, private)
    assert config.prompt_length == length
    got = (config.lr_source, config.lr_private, config.lr_router)
    # A rate of prompts that a preset has not may be anything.
    used = (sources > 0, private or composition == "factored", composition in ("spp", "scp", "inside"))
    assert all(g == r for g, r, use in zip(got, rates, used, strict=True) if use)
    assert (config.source_init, config.private_init) == STARTS.get(name, ("random", "random"))
    assert (config.epochs, config.steps, config.batch_size) == (20 if name in STORED else 30, None, 16)
    assert (config.weight_decay, config.clip_norm, config.warmup) == (0.01, 1.0, 0.2)


@pytest.mark.parametrize("name", OTHERS)
def test_presets_of_other_papers(name: str) -> None:
    config = resolve(choice(method=name), tasks=8, d_model=32)
    assert config.private and config.sources == 0
    assert {key: getattr(config, key) for key in OTHERS[name]} == OTHERS[name]
    assert (config.rate("update") > 0) == (name in ("dept", "adept"))


def test_the_papers_train_the_tasks_of_their_baselines_each_alone() -> None:
    """ComPT, section 4.1: "independently"; the joint form of `pt` is a method of its own."""
    assert {name for name in PUBLISHED if PRESETS[name].apart} == {"pt", "p", "pi", "mpt", "smop"}
    assert replace(PRESETS["pt-joint"], apart=True) == PRESETS["pt"]
    assert PRESETS.keys() == {*PUBLISHED, *OTHERS, *STORED_ELSEWHERE, "pt-joint"}


# Where prompts start, length, rates of private prompts and of what weighs sources, epochs, and whether tasks are apart.
STORED_ELSEWHERE: dict[str, tuple[Any, ...]] = {
    "spot": (("random", "joint"), 10, (0.3, 0.0), 30, True),
    "spot-nearest": (("random", "spot"), 10, (0.3, 0.0), 30, True),
    "progressive": (("chain", "random"), 10, (0.3, 0.0), 30, True),
    "attempt": (("stored", "random"), 10, (0.3, 0.3), 20, True),
    "attempt-m": (("stored", "random"), 10, (0.3, 0.3), 20, False),
}


@pytest.mark.parametrize("name", STORED_ELSEWHERE)
def test_methods_of_other_papers_that_start_from_stored_prompts(name: str) -> None:
    starts, length, rates, epochs, apart = STORED_ELSEWHERE[name]
    config = resolve(choice(method=name), tasks=8, d_model=32, source_tasks=3)
    assert ((config.source_init, config.private_init), config.prompt_length) == (starts, length)
    assert (config.lr_private, config.lr_router) == rates and config.lr_source == 0, "sources are frozen"
    assert (config.epochs, PRESETS[name].apart, config.encoder) == (epochs, apart, "none")
    assert config.sources == (3 if name.startswith("attempt") else 0)


@pytest.mark.parametrize(
    ("method", "changes", "rates"),
    [
        ("slpn", {}, {"shared_encoder": 0.15, "source_encoder": 0.15, "private_encoder": 0.07}),
        ("slpn", {"lr_source": 0.0}, {"shared_encoder": 0.0}),
        ("slpn", {"lr_source": 0.0, "lr_encoder": 0.01}, {"source": 0.0, "shared_encoder": 0.01}),
        ("spp", {"lr_encoder": 0.0}, {"source": 0.07, "source_encoder": 0.0, "private_encoder": 0.0, "router": 0.1}),
    ],
)
def test_encoders_learn_at_their_own_rate_or_that_of_what_they_encode(
    method: str, changes: dict[str, Any], rates: dict[str, float]
) -> None:
    config = resolve(choice(method=method, **changes), tasks=8, d_model=32)
    assert {group: config.rate(group) for group in rates} == rates


def test_a_rate_of_encoders_means_nothing_without_encoders() -> None:
    for changes in ({"method": "sil"}, {"method": "pi"}, {"encoder": "none"}):
        assert resolve(choice(lr_encoder=0.1, **changes), tasks=8, d_model=32).lr_encoder is None


@pytest.mark.parametrize(
    ("shots", "epochs", "expected"),
    [(8, None, 60), (10, None, 60), (11, None, 30), (None, None, 30), (8, 7, 7), (32, 7, 7)],
)
def test_few_shots_double_the_presets_epochs_only(shots: int | None, epochs: int | None, expected: int) -> None:
    assert resolve(choice(shots=shots, epochs=epochs), tasks=8, d_model=32).epochs == expected


def ignored_fields(preset: Preset) -> set[str]:
    return {flag.field for flag in RUN_FLAGS.values() if not flag.used(preset)}


def test_flags_override_a_preset_but_for_what_it_ignores() -> None:
    changes = {"sources": 7, "gates": "tied", "router": "constant", "lr_source": 0.5}
    spp = resolve(choice(**changes), tasks=8, d_model=32)
    assert (spp.sources, spp.gates, spp.router, spp.lr_source) == (7, "tied", "constant", 0.5)
    pt = resolve(choice(method="pt-joint", **changes), tasks=8, d_model=32)
    assert (pt.sources, pt.gates, pt.router) == (0, "fixed", "direct")
    slpn = resolve(choice(method="slpn", gates="tied"), tasks=8, d_model=32)
    assert (slpn.sources, slpn.gates) == (8, "fixed")
    others = {"lr_weights", "bottleneck", "lr_update", "update_rank", "update_length"}
    inert = others | {"sources", "gates", "router", "normalisation", "lr_router", "source_init"}
    assert ignored_fields(PRESETS["mst"]) == inert | {"lr_private", "private_init"}
    assert ignored_fields(PRESETS["pt"]) == inert | {"lr_source"}
    encoders = {"encoder", "encoder_hidden", "encoder_sharing", "lr_encoder"}
    assert ignored_fields(PRESETS["pi"]) == inert | {"lr_source", "private_init"} | encoders
    assert ignored_fields(PRESETS["slpn"]) == {"gates"} | others
    assert ignored_fields(PRESETS["sip"]) == {"gates", "sources", "source_init", "lr_source"} | others


def test_stored_sources_are_one_a_source_task() -> None:
    sil = resolve(choice(method="sil", sources=3), tasks=8, d_model=32, source_tasks=5)
    assert sil.sources == 5
    spp = resolve(choice(source_init="stored"), tasks=8, d_model=32)
    assert spp.sources == 8


def test_only_prompts_that_start_at_random_have_encoders() -> None:
    def encoder(**changes: Any) -> tuple[str, int]:
        config = resolve(choice(**changes), tasks=8, d_model=32)
        return config.encoder, config.encoder_hidden

    assert encoder(method="pi") == encoder(method="sil", encoder="mlp") == ("none", 0)
    assert encoder(method="silp") == ("linear", 0)
    assert encoder(method="slp", private_init="stored") == ("linear", 0)
    assert encoder(source_init="stored") == ("mlp", 32)
    assert encoder(source_init="stored", private_init="spot") == ("none", 0)


def test_frozen_sources_stay_frozen_whatever_the_flag_says() -> None:
    assert resolve(choice(method="sip", lr_source=0.5), tasks=8, d_model=32).lr_source == 0
    assert resolve(choice(method="silp", lr_source=0.0), tasks=8, d_model=32).lr_source == 0


@pytest.mark.parametrize(
    ("encoder", "hidden", "expected"),
    [("mlp", None, 32), ("mlp", 7, 7), ("lstm", None, 32), ("linear", 7, 0), ("none", 7, 0)],
)
def test_the_encoders_width(encoder: str, hidden: int | None, expected: int) -> None:
    changes = choice(encoder=encoder, encoder_hidden=hidden)
    assert resolve(changes, tasks=8, d_model=32).encoder_hidden == expected


def test_an_unknown_method_names_the_near_one() -> None:
    with pytest.raises(InputError, match=r"unknown method 'sppp'\. Did you mean 'spp'\?"):
        resolve(choice(method="sppp"), tasks=8, d_model=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_length": 0}, "--prompt-length must be above 0, not 0"),
        ({"epochs": -1}, "--epochs must be above 0, not -1"),
        ({"steps": 0}, "--steps must be above 0, not 0"),
        ({"shots": 0}, "--shots must be above 0, not 0"),
        ({"batch_size": 0}, "--batch-size must be above 0"),
        ({"clip_norm": 0.0}, "--clip-norm must be above 0"),
        ({"init_range": 0.0}, "--init-range must be above 0"),
        ({"max_train": 0}, "--max-train must be above 0"),
        ({"lr_private": -0.1}, "--lr-private must not be negative, not -0.1"),
        ({"weight_decay": -1.0}, "--weight-decay must not be negative"),
        ({"seed": -1}, "--seeds must not be negative, not -1"),
        ({"seed": 2**32}, "--seeds must be below 4294967296"),
        ({"warmup": 1.5}, "--warmup is a share of the steps"),
        ({"encoder_hidden": 0}, "--encoder-hidden must be above 0"),
        ({"sources": 0}, "--sources must be at least 1 for method 'spp'"),
    ],
)
def test_numbers_that_no_training_can_use(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(choice(**changes), tasks=8, d_model=32)
