"""The environment report: what it says of this machine and of machines made up here."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from compt_fast import info, kernels, native
from compt_fast.config.choices import ENGINE_NAMES
from compt_fast.utils.environment import PACKAGES, gpus

ALL_HERE = {name: "1.0" for name in PACKAGES}
TOOLS = {"c++": "g++ 12", "nvcc": "release 13.0"}
CPU = {"name": "x", "cores": 4, "memory_gib": 8.0, "free_gib": 6.0, "bf16": "avx512_bf16", "int8": "avx512_vnni"}


def test_a_machine_whose_memory_is_not_known() -> None:
    facts = info.report()
    assert "memory not known" in info.render(facts | {"cpu": facts["cpu"] | {"memory_gib": None}})


def test_engines_are_those_that_the_trunk_opens() -> None:
    assert {part.name for part in info.engines()} == set(ENGINE_NAMES) - {"auto"}
    assert all(part.active for part in info.engines())


def test_the_kernels_part_says_what_they_do_or_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable", lambda device: "no such thing here")
    part = info.composition_kernels()
    assert not part.active and "no such thing here" in part.why
    monkeypatch.setattr(kernels, "unavailable", lambda device: "")
    part = info.composition_kernels()
    assert part.active and "lstm" in part.why


def test_nothing_is_missing_where_everything_is() -> None:
    assert not list(info._missing_hardware(True, "13.0", CPU))
    assert not list(info._missing_software(ALL_HERE, True))
    assert not list(info._missing_compilers(TOOLS, False))
    assert not list(info._missing_extension(native.Status(True, "loaded")))


@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("name", ["datasets", "tensorboard", "triton"])
def test_a_missing_package_is_named_with_its_cost(name: str, has_gpu: bool) -> None:
    (gap,) = info._missing_software(ALL_HERE | {name: None}, has_gpu)
    assert gap.what == name and gap.cost
    assert gap.felt == (name == "datasets" or (name == "triton" and has_gpu))


@pytest.mark.parametrize(("name", "built"), [("c++", True), ("nvcc", True), ("nvcc", False)])
def test_a_missing_compiler_is_not_felt_beside_what_says_it_of_the_extension(name: str, built: bool) -> None:
    (gap,) = info._missing_compilers(TOOLS | {name: None}, built)
    assert gap.what == name and gap.cost and not gap.felt
    assert not list(info._missing_compilers(TOOLS | {"c++": None}, False))


@pytest.mark.parametrize(
    ("why", "shown"),
    [
        ("turned off by COMPT_FAST_NATIVE=0", "turned off by COMPT_FAST_NATIVE=0; "),
        ("not built, and there is no ninja (pip install ninja)", "there is no ninja (pip install ninja); "),
        ("building failed, see build.log:\na.cpp:1: error\n", "building failed, see build.log; "),
        ("the cache cannot be written: [Errno 13]", "the cache cannot be written: [Errno 13]; "),
    ],
)
def test_an_extension_that_is_not_used_is_felt_and_its_reason_stands_in_one_line(why: str, shown: str) -> None:
    (gap,) = info._missing_extension(native.Status(False, why))
    assert gap.felt and "slow" in gap.cost and shown in gap.cost and "\n" not in gap.cost


def test_an_extension_that_the_first_use_builds_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(info._missing_extension(native.Status(False, "not built yet", pending=True)))
    monkeypatch.setattr(native, "status", lambda: native.Status(False, "there is no ninja"))
    assert "the C++ extension (there is no ninja; " in str(info.missing_line())


def test_the_extension_is_reported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "status", lambda: native.Status(False, "not built, and there is no ninja"))
    (part,) = (part for part in info.native_parts() if part.name == "C++/CUDA extension")
    assert not part.active and part.why == "not built, and there is no ninja"


def test_a_missing_gpu_is_felt_and_a_cpu_build_beside_a_gpu_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (gap,) = info._missing_hardware(False, None, CPU)
    assert gap.felt and "GPU" in gap.what and "4 cores" in gap.cost
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    (gap,) = info._missing_hardware(False, None, CPU)
    assert gap.felt and "torch with CUDA" in gap.what
    (gap,) = info._missing_hardware(False, "13.0", CPU)
    assert gap.what == "a GPU"
    with_slow_bf16 = list(info._missing_hardware(False, "13.0", CPU | {"bf16": None}))
    assert [gap.felt for gap in with_slow_bf16] == [True, False]
    for bf16, instead in ((None, "fp32"), ("avx512_bf16", "bf16")):
        gap = list(info._missing_hardware(False, "13.0", CPU | {"bf16": bf16, "int8": None}))[-1]
        assert not gap.felt and gap.what == "VNNI instructions" and gap.cost.startswith("--dtype int8")
        assert f"in {instead} on" in gap.cost


def test_missing_line_is_one_line_of_what_is_felt(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = [
        info.Missing("a GPU", "slow", True),
        info.Missing("triton", "nothing", False),
        info.Missing("datasets", "no hub", True),
    ]
    monkeypatch.setattr(info, "missing", lambda: gaps)
    assert info.missing_line() == "Not on this machine: a GPU (slow); datasets (no hub)."
    monkeypatch.setattr(info, "missing", lambda: gaps[1:2])
    assert info.missing_line() is None


def test_compilers_come_from_the_path_and_cxx(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my-cxx"
    compiler.write_text("#!/bin/sh\necho 'my compiler 7'\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert info.compilers()["c++"] == "my compiler 7"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert info.compilers() == {"c++": None, "nvcc": None}


def test_a_compiler_that_fails_counts_as_none(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho g++; exit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert info.compilers()["c++"] is None


def test_the_printed_report_has_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main([]) == 0
    text = capsys.readouterr().out
    for title in ("Device", "Compilers", "Engines", "Native parts", "Missing, and what it costs"):
        assert f"\n{title}\n" in text
    assert torch.__version__ in text
    for gap in info.missing():
        assert sum(gap.what in line and gap.cost in line for line in text.splitlines()) == 1
    for part in info.native_parts():
        assert f"{part.name}" in text and part.why in text


def test_json_is_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == set(info.report())
    assert [gap["what"] for gap in facts["missing"]] == [gap.what for gap in info.missing()]


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_memory() -> None:
    first = gpus()[0]
    assert first["name"] == torch.cuda.get_device_name(0)
    assert 0 < first["free_gib"] <= first["memory_gib"]
    assert first["name"] in info.render(info.report())
