"""Every kernel compiles for GPUs that are not here, and none spills."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from compt_fast.kernels.plan import Plan
from compt_fast.ops.compose import plan_text
from compt_fast.prompts.shape import PromptShape
from tests.helpers.tritons import OLD_TRITON, python
from tools import compile_check
from tools.compile_check import PLANS, TARGETS, Usage

KERNELS = {"prepare", "encode", "gather", "backward_prompts", "backward_layer", "backward_logits"}
KERNELS |= {"squares", "update", "_forward", "_backward_queries", "_backward_keys", "_norm", "_norm_backward"}
KERNELS |= {"_products", "_softmax", "_softmax_backward", "_weighted_sum", "_states_grad"}
MINIMAL = ("spp", "spp m=100", "scp N=10", "slpn", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "triton"), [*((target, "installed") for target in TARGETS), pytest.param(90, "3.6", marks=OLD_TRITON)]
)
def test_every_kernel_compiles_and_none_spills(target: int, triton: str) -> None:
    chosen = [word for plan in MINIMAL for word in ("--plan", plan)]
    done = python(triton, "-m", "tools.compile_check", *chosen, "--target", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(f"sm_{target}") for line in done.stdout.splitlines() if f"sm_{target}" in line]
    assert {before.split()[-1] for before, _ in lines} == KERNELS
    assert all(0 < int(after.split()[0]) <= 255 and after.split()[2] == "0" for _, after in lines)


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
    found = [Usage("spp", "encode", 90, 64, shared, spilled)]
    monkeypatch.setattr(compile_check, "check", lambda plans, targets: iter(found))
    assert compile_check.main([]) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{code} of 1 ")


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compile_check.main(["--target", "70"])
    assert "invalid choice: 70" in capsys.readouterr().err
