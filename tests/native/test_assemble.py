"""The assembly in plain PyTorch and compiled, against rows put together one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from compt_fast import native
from compt_fast.ops import assembly
from tests.helpers.assembly import case, expected, expected_grad, needed

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
Assemble = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


@pytest.fixture(params=["plain", "compiled"])
def assemble(request: pytest.FixtureRequest) -> Assemble:
    return assembly.formula if request.param == "plain" else torch.ops.compt_fast.assemble


def same(got: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(got, right, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def gradient(assemble: Assemble, arguments: dict[str, Any], seed: int = 1) -> tuple[Tensor, Tensor]:
    """The prompts' gradient for a random one of the packed input, and that one."""
    prompts = arguments["prompts"].detach().clone().requires_grad_()
    packed, _ = assemble(**arguments | {"prompts": prompts})
    grad = torch.randn(packed.shape, generator=torch.Generator().manual_seed(seed)).to(packed.dtype)
    (got,) = torch.autograd.grad(packed, prompts, grad)
    return got, grad


@pytest.mark.parametrize("prepend", [True, False])
@pytest.mark.parametrize("trunk_type", FLOATS)
@pytest.mark.parametrize("prompt_type", FLOATS)
def test_values_and_gradient(
    assemble: Assemble, prompt_type: torch.dtype, trunk_type: torch.dtype, prepend: bool
) -> None:
    arguments = case(prompt_type=prompt_type, trunk_type=trunk_type, prepend=prepend)
    same(assemble(**arguments), expected(arguments))
    got, grad = gradient(assemble, arguments)
    assert got.dtype == prompt_type
    torch.testing.assert_close(got, expected_grad(arguments, grad).to(prompt_type), rtol=0, atol=0)


@pytest.mark.parametrize("width", [1, 7, 24, 768, 769])
@pytest.mark.parametrize(
    ("prompts", "rows"),
    [
        ((5,), (3,)),
        ((0,), (4, 1)),
        ((2, 2, 2), (1,) * 200),
        ((10, 3), (0, 0, 5)),
        ((100, 0, 100), (1, 211, 97, 1, 64)),
    ],
)
def test_lengths_and_widths(assemble: Assemble, prompts: tuple[int, ...], rows: tuple[int, ...], width: int) -> None:
    arguments = case(prompts, rows, width=width, prepend=bool(width % 2), seed=width)
    same(assemble(**arguments), expected(arguments))
    got, grad = gradient(assemble, arguments)
    torch.testing.assert_close(got, expected_grad(arguments, grad), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_batch_on_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    arguments = case((9,) * 20, tuple(range(1, 150)), width=256)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same(torch.ops.compt_fast.assemble(**arguments), expected(arguments))
        got, grad = gradient(torch.ops.compt_fast.assemble, arguments)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, expected_grad(arguments, grad), rtol=0, atol=0)


@pytest.mark.parametrize("width", [0, 8])
@pytest.mark.parametrize(("prompts", "rows"), [((), ()), ((3,), ()), ((0,), (0, 0)), ((2, 0), (0,))])
def test_nothing_in_it(assemble: Assemble, prompts: tuple[int, ...], rows: tuple[int, ...], width: int) -> None:
    arguments = case(prompts, rows, [0] * len(rows), width=width)
    same(assemble(**arguments), expected(arguments))
    got, grad = gradient(assemble, arguments)
    torch.testing.assert_close(got, expected_grad(arguments, grad), rtol=0, atol=0)


@pytest.mark.parametrize("slack", [0, 1, 1000])
def test_slack_behind_the_rows_is_zero_and_has_no_gradient(assemble: Assemble, slack: int) -> None:
    arguments = case(trunk_type=torch.float32)
    total = needed(arguments) + slack
    prompts = arguments["prompts"].requires_grad_()
    packed, cu_seqlens = assemble(**arguments, total=total)
    same((packed.detach(), cu_seqlens), expected(arguments, total))
    grad = torch.full_like(packed, torch.nan)
    grad[: total - slack] = 1
    (got,) = torch.autograd.grad(packed, prompts, grad)
    torch.testing.assert_close(got, expected_grad(arguments, grad))


def test_no_row_is_left_unwritten() -> None:
    arguments = case(width=9)
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
    try:
        assert torch.empty(3).isnan().all()
        got, _ = gradient(torch.ops.compt_fast.assemble, arguments)
        packed, _ = torch.ops.compt_fast.assemble(**arguments, total=100)
    finally:
        torch.use_deterministic_algorithms(False)
    assert packed.isfinite().all() and got.isfinite().all()


def strided(tensor: Tensor, how: str) -> Tensor:
    """Equal to `tensor`, and laid out in another way."""
    if how == "columns first":
        return tensor.T.contiguous().T
    if how == "every other row":
        return torch.stack([tensor, tensor + 1], 1).flatten(0, 1)[::2]
    if how == "part of wider rows":
        return torch.cat([tensor + 1, tensor, tensor + 2], 1)[:, tensor.shape[1] : 2 * tensor.shape[1]]
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("how", ["columns first", "every other row", "part of wider rows", "expanded"])
def test_strides_of_prompts_and_of_the_gradient(assemble: Assemble, how: str) -> None:
    arguments = case(trunk_type=torch.float32)
    prompts = strided(arguments["prompts"], how)
    right = expected(arguments | {"prompts": prompts.clone()})
    same(assemble(**arguments | {"prompts": prompts}), right)
    leaf = arguments["prompts"].requires_grad_()
    packed, _ = assemble(**arguments)
    grad = strided(torch.randn(packed.shape), how)
    (got,) = torch.autograd.grad(packed, leaf, grad)
    torch.testing.assert_close(got, expected_grad(arguments, grad))


def test_strides_of_table_and_index_vectors(assemble: Assemble) -> None:
    arguments = case()
    changed = {
        name: torch.stack([arguments[name], arguments[name] + 99], 1)[:, 0]
        for name in ("prompt_cu_seqlens", "slots", "token_ids", "input_cu_seqlens")
    }
    changed["embedding"] = strided(arguments["embedding"], "part of wider rows")
    same(assemble(**arguments | changed), expected(arguments))


def test_gradient_of_a_sum_whose_gradient_is_expanded(assemble: Assemble) -> None:
    arguments = case()
    prompts = arguments["prompts"].requires_grad_()
    assemble(**arguments)[0].sum().backward()
    slots = arguments["slots"].bincount(minlength=4)
    right = slots.repeat_interleave(arguments["prompt_cu_seqlens"].diff()).float()
    torch.testing.assert_close(prompts.grad, right[:, None].expand_as(prompts))


def test_gradcheck(assemble: Assemble) -> None:
    arguments = case((2, 1), (1, 2), width=3, prompt_type=torch.float64, trunk_type=torch.float64)
    prompts = arguments.pop("prompts").requires_grad_()
    assert torch.autograd.gradcheck(lambda p: assemble(p, **arguments)[0], prompts)


def test_the_gradient_is_summed_in_fp32_and_cast_once() -> None:
    arguments = case((1,), (0,) * 300, prompt_type=torch.bfloat16)
    prompts = arguments["prompts"].requires_grad_()
    packed, _ = torch.ops.compt_fast.assemble(**arguments)
    (got,) = torch.autograd.grad(packed, prompts, torch.ones_like(packed))
    assert (got == 300).all()  # summed in bf16 it would stop at 256


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own forward mode scripts
def test_no_gradient_gets_lost() -> None:
    arguments = case(trunk_type=torch.float32)
    embedding = arguments["embedding"].clone().requires_grad_()
    operator = torch.ops.compt_fast.assemble
    with pytest.raises(ValueError, match="embedding must not require a gradient"):
        operator(**arguments | {"embedding": embedding})
    with torch.no_grad():
        operator(**arguments | {"embedding": embedding})

    prompts = arguments["prompts"].clone().requires_grad_()
    packed, _ = operator(**arguments | {"prompts": prompts})
    upstream = torch.randn(packed.shape, requires_grad=True)
    (grad,) = torch.autograd.grad(packed, prompts, upstream, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(grad.sum(), upstream)

    def run(prompts: Tensor) -> Tensor:
        return operator(**arguments | {"prompts": prompts})[0]

    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(run, (arguments["prompts"],), (arguments["prompts"],))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda prompts: run(prompts).sum())(arguments["prompts"])


def test_the_forward_is_not_differentiated_where_nothing_asks() -> None:
    packed, cu_seqlens = torch.ops.compt_fast.assemble(**case())
    assert packed.grad_fn is None
    with torch.inference_mode():
        same(torch.ops.compt_fast.assemble(**case()), (packed, cu_seqlens))


@pytest.mark.slow
@pytest.mark.parametrize("prepend", [True, False])
def test_opcheck(prepend: bool) -> None:
    for prompt_type, trunk_type in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        arguments = case(prompt_type=prompt_type, trunk_type=trunk_type, prepend=prepend)
        arguments["prompts"].requires_grad_()
        total = needed(arguments) + 3
        opcheck(torch.ops.compt_fast.assemble.default, tuple(arguments.values()), {"total": total})
        packed, cu_seqlens = torch.ops.compt_fast.assemble(**arguments, total=total)
        backward = (packed.detach(), arguments["prompt_cu_seqlens"], arguments["slots"], cu_seqlens, 9, prepend)
        opcheck(torch.ops.compt_fast.assemble_backward.default, backward)


class Sum(torch.nn.Module):
    """Something around the operator, for those that trace it."""

    def forward(
        self,
        prompts: Tensor,
        prompt_cu_seqlens: Tensor,
        slots: Tensor,
        token_ids: Tensor,
        input_cu_seqlens: Tensor,
        embedding: Tensor,
        total: int,
    ) -> tuple[Tensor, Tensor]:
        packed, cu_seqlens = torch.ops.compt_fast.assemble(
            prompts * 2, prompt_cu_seqlens, slots, token_ids, input_cu_seqlens, embedding, True, total
        )
        return packed.float() + 1, cu_seqlens


def traced_inputs(seed: int = 0, **changes: Any) -> tuple[tuple[Any, ...], Tensor, Tensor]:
    """What `Sum` is called with, and what it should return and give as the gradient of its sum."""
    arguments = case(seed=seed, **changes)
    total = needed(arguments)
    right = expected(arguments | {"prompts": arguments["prompts"] * 2}, total)[0].float() + 1
    ones = torch.ones(total, right.shape[1], dtype=torch.bfloat16)
    del arguments["prepend"]
    grad = 2 * expected_grad(arguments | {"prepend": True}, ones)
    return (*arguments.values(), total), right, grad


def check_traced(run: Callable[..., tuple[Tensor, Tensor]], seed: int = 0, **changes: Any) -> None:
    inputs, right, right_grad = traced_inputs(seed, **changes)
    prompts = inputs[0].requires_grad_()
    packed, _ = run(*inputs)
    torch.testing.assert_close(packed.detach(), right)
    packed.sum().backward()
    torch.testing.assert_close(prompts.grad, right_grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler scripts
def test_compiled_whole_forward_and_backward() -> None:
    run = torch.compile(Sum(), fullgraph=True)
    check_traced(run)
    check_traced(run, seed=1, row_lengths=(3, 3, 9, 20))
    check_traced(run, seed=2, row_lengths=(1,) * 17)


def test_compile_without_a_size_says_what_is_missing() -> None:
    arguments = case()
    meta = {name: x.to("meta") if isinstance(x, Tensor) else x for name, x in arguments.items()}
    with pytest.raises(ValueError, match="total must be given"):
        torch.ops.compt_fast.assemble(**meta)
    packed, cu_seqlens = torch.ops.compt_fast.assemble(**meta, total=40)
    assert packed.shape == (40, 24) and packed.dtype == torch.bfloat16 and cu_seqlens.shape == (7,)


@pytest.mark.slow
def test_exported() -> None:
    inputs, right, _ = traced_inputs()
    with torch.no_grad():
        program = torch.export.export(Sum(), inputs)
        packed, _ = program.module()(*inputs)
    torch.testing.assert_close(packed, right)


FRESH = """
import sys
import torch
assert "compt_fast" not in sys.modules
library, script, inputs = sys.argv[1:]
torch.ops.load_library(library)
run = torch.jit.load(script)
prompts, *others, total = torch.load(inputs, weights_only=True)
prompts.requires_grad_()
packed, cu_seqlens = run(prompts, *others, total)
packed.sum().backward()
torch.save((packed.detach(), cu_seqlens, prompts.grad), inputs)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what is tested is the old way
def test_scripted_saved_and_run_where_there_is_only_the_library(tmp_path) -> None:
    inputs, right, right_grad = traced_inputs()
    scripted = torch.jit.script(Sum())
    check_traced(scripted)
    scripted.save(tmp_path / "sum.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-I", "-W", "ignore", "-c", FRESH, native.status().path, "sum.pt", "inputs.pt"]
    subprocess.run(list(map(str, command)), cwd=tmp_path, check=True)
    packed, _, grad = torch.load(tmp_path / "inputs.pt", weights_only=True)
    torch.testing.assert_close(packed, right)
    torch.testing.assert_close(grad, right_grad)
