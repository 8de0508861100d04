"""Every kernel compiles for GPUs that are not here, and none spills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from compt_fast.kernels.plan import Plan
from compt_fast.ops.compose import plan_text
from compt_fast.prompts.shape import PromptShape
from tests.helpers.tritons import OLD_TRITON, python
from tools import compile_check
from tools.compile_check import PLANS, TARGETS, Usage
from tools.machine_code import Needs

KERNELS = {"prepare", "encode", "gather", "backward_prompts", "backward_layer", "backward_logits"}
KERNELS |= {"squares", "update", "_forward", "_backward_queries", "_backward_keys", "_norm", "_norm_backward"}
KERNELS |= {"_products", "_softmax", "_softmax_backward", "_weighted_sum", "_states_grad", "_newest"}
TENSOR_CORES = {80: "mma.sync", 90: "wgmma", 100: "tcgen05"}
MINIMAL = ("spp", "spp m=100", "scp N=10", "slpn", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "triton"), [*((target, "installed") for target in TARGETS), pytest.param(90, "3.6", marks=OLD_TRITON)]
)
def test_every_kernel_compiles_and_none_spills(target: int, triton: str, tmp_path: Path) -> None:
    chosen = [word for plan in MINIMAL for word in ("--plan", plan)]
    report = tmp_path / "kernels.json"
    done = python(triton, "-m", "tools.compile_check", *chosen, "--target", str(target), "--out", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())["kernels"]
    assert {used["kernel"] for used in found} == KERNELS
    assert all(0 < used["needs"]["registers"] <= 255 and used["target"] == target for used in found)
    assert not any(used["spilled"] or used["local"] for used in found)
    assert all(used["programs"] >= 1 for used in found)
    _has_what_it_must({(used["plan"], used["kernel"]): used for used in found}, target)


def _has_what_it_must(found: dict[tuple[str, str], dict[str, Any]], target: int) -> None:
    """Tensor cores' own instructions where tiles are large enough, and 16 bytes at a time where rows are aligned."""
    side = {"_forward": 64} | dict.fromkeys(("_backward_queries", "_backward_keys"), 64 if target >= 90 else 32)
    for plan in ("attention bf16", "attention 1 tile"):
        for kernel, tiles in {"_forward": 4, "_backward_queries": 6, "_backward_keys": 6}.items():
            used = found[plan, kernel]
            assert used["products"] == TENSOR_CORES[target] and used["programs"] >= 2
            # A thread's share of the tiles of 64 numbers in bf16 a row. What is narrower are the bias, sums, and rows'
            # bounds; no number of bf16 is read or written alone.
            assert used["accesses"]["16"] >= tiles * side[kernel] * 64 * 2 // (16 * 128)
            assert not used["accesses"].keys() & {"1", "2"}
    # But for a token's factor a norm's rows go 16 bytes at a time.
    assert found["d=768 bf16", "_norm"]["accesses"] == {"16": 8, "4": 1}
    # Their tiles have 16 or 32 rows, fewer than a warp group or a tensor memory multiplies.
    small = [("d=768 bf16", "_products"), ("d=768 bf16", "_weighted_sum"), ("spp", "encode"), ("spp", "backward_layer")]
    assert {found[each]["products"] for each in small} == {"mma.sync"}
    if target == 90:  # of 128 and 64 rows
        large = [("spp m=100", "prepare"), ("spp m=100", "encode"), ("d=768 bf16", "_states_grad")]
        assert {found[each]["products"] for each in large} == {"wgmma"}


@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        ("spp", PromptShape("spp", 8, 3, True, 5, 768, gates="learned")),
        ("scp N=10", PromptShape("scp", 8, 10, True, 5, 768, gates="learned")),
        ("pt", PromptShape("pt", 8, 0, True, 5, 768)),
        ("mst", PromptShape("mst", 8, 1, False, 5, 768)),
        ("p", PromptShape("pt", 8, 0, True, 10, 768, "linear")),
        ("sln", PromptShape("inside", 8, 8, False, 10, 768, "linear", "shared")),
        ("slpn", PromptShape("inside", 8, 8, True, 10, 768, "linear", "shared")),
    ],
)
def test_the_plans_are_those_of_the_papers_methods(plan: str, shape: PromptShape) -> None:
    made, listed = Plan.parsed(plan_text(shape, None, "tf32x3")), PLANS[plan]
    assert made.constants() == listed.constants()
    assert made.tau == pytest.approx(listed.tau, abs=0.01)  # no constant of a kernel


@pytest.mark.parametrize(("spilled", "shared", "code"), [(0, 1024, 0), (8, 1024, 1), (0, 101_377, 1)])
def test_a_spill_or_too_much_shared_memory_fails(
    spilled: int, shared: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Usage("spp", "encode", 90, Needs(4, 64, shared), spilled)]
    monkeypatch.setattr(compile_check, "check", lambda plans, targets: iter(found))
    assert compile_check.main([]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{code} of 1 ")


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compile_check.main(["--target", "70"])
    assert "invalid choice: 70" in capsys.readouterr().err
