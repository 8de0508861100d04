"""Which of formula, C++ and Triton computes a call."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compt_fast import native
from compt_fast.ops import paths
from compt_fast.ops.paths import COMPILED, FAMILIES, FORMULA, TRITON, path

HERE = torch.zeros(1)
GPU: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
BESIDE_FAMILIES = {"__init__", "compose", "paths", "placement", "varlen"}


def test_every_family_is_a_module_and_every_way_is_there(repository: Path) -> None:
    modules = {file.stem for file in (repository / "compt_fast" / "ops").glob("*.py")}
    assert set(FAMILIES) == modules - BESIDE_FAMILIES
    assert native.load(), native.status().why
    for family in FAMILIES.values():
        assert all(hasattr(torch.ops.compt_fast, name) for name in family.compiled)
        assert not family.triton or importlib.util.find_spec(f"compt_fast.kernels.{family.triton}")


def test_every_compiled_operator_belongs_to_one_family() -> None:
    named = [name for family in FAMILIES.values() for name in family.compiled]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_extension_a_cpu_computes_by_the_formula(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: False)
    assert path(family, HERE) == FORMULA


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_names_nothing_else_is_computed_by_its_formula(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allow-list: whatever is not named there is not taken."""
    monkeypatch.setattr(paths, "unavailable", lambda device: "")
    monkeypatch.setattr(native, "load", lambda: True)
    monkeypatch.setitem(FAMILIES, family, paths.Family())
    assert path(family, HERE) == path(family, GPU) == FORMULA


def test_the_extension_goes_before_triton_on_a_cpu_and_triton_alone_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "unavailable", lambda device: "")
    monkeypatch.setattr(native, "load", lambda: True)
    assert path("attention", HERE) == COMPILED
    assert path("attention", GPU) == TRITON
    assert path("linear", GPU) == FORMULA
    monkeypatch.setattr(paths, "unavailable", lambda device: "too old")
    assert path("attention", GPU) == FORMULA


@pytest.mark.parametrize("half", [True, False])
def test_without_the_cuda_half_a_gpus_rows_are_assembled_by_the_formula(
    half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where torch brought its CUDA along and there is no nvcc."""
    monkeypatch.setattr(native, "load", lambda: True)
    monkeypatch.setattr(native, "has_cuda", lambda: half)
    assert path("assembly", GPU) == (COMPILED if half else FORMULA)


def test_products_are_compiled_where_they_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: True)
    only_bf16 = paths.Family(("product",), takes=lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setitem(FAMILIES, "linear", only_bf16)
    assert path("linear", HERE) == FORMULA
    assert path("linear", HERE.bfloat16()) == COMPILED
