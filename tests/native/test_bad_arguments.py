"""What is wrong is named, and nothing that is wrong brings the process down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.native import build, library
from tests.helpers.abuse import IN_PLACE, abuse, attention_case, calls, side_by_side
from tests.helpers.assembly import case, needed
from tests.helpers.operators import RESULTS

GOOD = case()
MANY = 2000
INT = torch.int64


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


def index(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=INT)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prompts", torch.zeros(9, 24, dtype=INT), "prompts must be a dense tensor of 2 dimensions of float32"),
        ("prompts", torch.zeros(9, 2, 12), "prompts must be a dense tensor of 2 dimensions"),
        ("prompts", torch.zeros(9, 23), "prompts must be as wide as embedding, 24, got 23"),
        ("prompts", torch.zeros(9, 24).to_sparse(), "compt_fast::assemble"),
        ("prompts", torch.zeros(8, 24), "prompt_cu_seqlens must ascend from 0 to 8, the rows of prompts, got 0 to 9"),
        ("prompt_cu_seqlens", index(0, 5, 5, 8, 9).int(), "prompt_cu_seqlens must be a dense int64 vector, got Int"),
        ("prompt_cu_seqlens", index(), "prompt_cu_seqlens must have an entry for each slot and one more, got none"),
        (
            "prompt_cu_seqlens",
            index(1, 5, 5, 8, 9),
            "prompt_cu_seqlens must ascend from 0 to 9, the rows of prompts, got 1",
        ),
        ("prompt_cu_seqlens", index(0, 5, 4, 8, 9), "prompt_cu_seqlens must ascend, got 5 before 4 at 1"),
        ("slots", index(0, 1, 2, 3, 4, 0), r"slots\[4\] is 4, and there are 4 slots"),
        ("slots", index(0, 1, 2, -1, 0, 0), r"slots\[3\] is -1, and there are 4 slots"),
        ("slots", index(0, 1), "input_cu_seqlens must have one entry more than slots, 3, got 7"),
        ("slots", index(0, 1, 2, 3, 1, 0)[None], "slots must be a dense int64 vector, got Long of 2 dimensions"),
        ("token_ids", torch.full((25,), 50), r"token_ids\[0\] is 50, and there are 50 rows of embedding"),
        ("token_ids", torch.full((25,), -1), r"token_ids\[0\] is -1"),
        ("token_ids", torch.zeros(24, dtype=INT), "input_cu_seqlens must ascend from 0 to 24, the tokens, got 0 to 25"),
        ("token_ids", torch.zeros(25, dtype=INT, device="meta"), "token_ids must be on cpu, got meta"),
        (
            "input_cu_seqlens",
            index(0, 7, 8, 8, 21, 23),
            "input_cu_seqlens must have one entry more than slots, 7, got 6",
        ),
        ("input_cu_seqlens", index(0, 7, 6, 8, 21, 23, 25), "input_cu_seqlens must ascend, got 7 before 6 at 1"),
        ("input_cu_seqlens", index(0, -(2**63), 6, 8, 21, 23, 25), "input_cu_seqlens must ascend, got 0 before -"),
        ("embedding", torch.zeros(50, 24, dtype=torch.int8), "embedding must be a dense tensor of 2 dimensions"),
        ("embedding", torch.zeros(24, 50).T, "embedding must have contiguous rows, got strides"),
        ("embedding", torch.zeros(0, 24), "there are 0 rows of embedding"),
        ("total", 5, f"total must be at least {needed(GOOD)}, the prompts and tokens of all rows, got 5"),
        ("total", -1, "total must not be negative, got -1"),
    ],
)
def test_the_argument_at_fault_is_named(name: str, value: Any, message: str) -> None:
    errors = (ValueError, NotImplementedError) if "::" in message else ValueError
    with pytest.raises(errors, match=message):
        torch.ops.compt_fast.assemble(**GOOD | {name: value})


@pytest.mark.parametrize("name", ["prompts", "slots", "embedding", "token_ids"])
def test_a_tensor_without_its_storage_is_refused(name: str) -> None:
    freed = GOOD[name].clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=f"{name} needs [0-9]+ bytes of storage, and its storage holds 0"):
        torch.ops.compt_fast.assemble(**GOOD | {name: freed})


def test_more_rows_than_can_be_counted_are_refused() -> None:
    arguments = case((1,), (0,) * 64)
    huge = {"prompts": arguments["prompts"].expand(2**58, 24), "prompt_cu_seqlens": index(0, 2**58)}
    with pytest.raises(ValueError, match="cannot be counted"):
        torch.ops.compt_fast.assemble(**arguments | huge)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("packed_cu_seqlens", index(0, 12, 13, 16, 34, 36, 99), "packed_cu_seqlens must ascend from 0 to at most 40"),
        (
            "packed_cu_seqlens",
            index(0, 12, 13, 13, 34, 36, 40),
            "packed_cu_seqlens must leave row 2 room for its prompt",
        ),
        ("prompt_rows", 8, "prompt_cu_seqlens must ascend from 0 to 8"),
        ("prompt_rows", -1, "prompt_rows must not be negative"),
        ("grad", torch.zeros(40), "grad must be a dense tensor of 2 dimensions"),
    ],
)
def test_the_gradient_names_the_argument_at_fault(name: str, value: Any, message: str) -> None:
    good = {
        "grad": torch.zeros(40, 24),
        "prompt_cu_seqlens": GOOD["prompt_cu_seqlens"],
        "slots": index(0, 1, 2, 0, 1, 3),
        "packed_cu_seqlens": index(0, 12, 13, 16, 34, 36, 40),
        "prompt_rows": 9,
        "prepend": True,
    }
    torch.ops.compt_fast.assemble_backward(**good)
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.assemble_backward(**good | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("qkv", torch.zeros(17, 2, 2, 5), r"qkv must be \(tokens, 3, heads, width\), got \[17, 2, 2, 5\]"),
        ("qkv", torch.zeros(17, 3, 2, 5).half(), "qkv must be float32 or bfloat16, got Half"),
        ("qkv", torch.zeros(17, 3, 5, 2).mT, "qkv must be contiguous"),
        ("qkv", torch.zeros(16, 3, 2, 5), "cu_seqlens must ascend from 0 to 16, the tokens, got 0 to 17"),
        ("cu_seqlens", index(0, 9, 4, 15, 17), "cu_seqlens must ascend, got 9 before 4"),
        ("cu_seqlens", index(), "cu_seqlens must not be empty"),
        ("bias", torch.zeros(3, 21), "bias must have a row for each head, 2, got 3"),
        ("bias", torch.zeros(2, 19), "bias must have 2 W - 1 columns, W at least 11, the longest row, got 19"),
        ("bias", torch.zeros(2, 22), "bias must have 2 W - 1 columns"),
        ("bias", torch.zeros(2, 21).double(), "bias must be float32, got Double"),
        ("bias", torch.zeros(2, 21).requires_grad_(), "bias must not require a gradient"),
    ],
)
def test_attention_names_the_argument_at_fault(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.packed_attention(**attention_case(0) | {name: value})


def test_random_bad_arguments_end_in_an_error_or_in_the_right_result() -> None:
    outcomes = [abuse(seed) for seed in range(MANY)]
    told = [outcome for outcome in outcomes if "compt_fast operator: " in outcome.error]
    assert len(told) > MANY // 4
    assert len(set(re.sub("[0-9]+", "", outcome.error) for outcome in told)) > 40, "the abuse is too tame"
    names = {name: "|".join(arguments) for name, arguments in calls(0).items()}
    for outcome in told:
        assert re.search(rf"operator: .*\b({names[outcome.operator]})\b", outcome.error), outcome
    checked = {outcome.operator for outcome in outcomes if outcome.checked}
    assert checked == set(RESULTS), "some operator's results were never looked at"


def test_the_abuse_knows_every_operator() -> None:
    registered = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("compt_fast::")]
    compiled = [name for name in registered if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")]
    assert sorted(name.removeprefix("compt_fast::") for name in compiled) == sorted(calls(0))
    assert set(calls(0)) - set(RESULTS) == {"pack_states"}


def written_arguments() -> list[tuple[str, str]]:
    """Each operator of the CPU's and an argument that its schema says it writes into."""
    ops = torch.ops.compt_fast
    found = [(name, getattr(ops, name).default._schema.arguments) for name in sorted(calls(0))]
    return [
        (name, one.name)
        for name, arguments in found
        for one in arguments
        if (one.alias_info is not None and one.alias_info.is_write)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_written_to_shares_no_memory_with_what_is_read(seed: int) -> None:
    written = written_arguments()
    assert {argument for _, argument in written} == set(IN_PLACE) and len(written) >= 3
    for name, argument in written:
        good = calls(seed)[name]
        read = [other for other, value in good.items() if isinstance(value, Tensor) and other != argument]
        assert len(read) >= 2
        for other in read:
            apart, shared = (
                dict(zip((argument, other), side_by_side(good[argument], good[other], overlap=overlap), strict=True))
                for overlap in (False, True)
            )
            getattr(torch.ops.compt_fast, name)(**good | apart)
            with pytest.raises(ValueError, match=f"{argument} is written to, and must not share memory with {other}"):
                getattr(torch.ops.compt_fast, name)(**good | shared)


@pytest.mark.slow
def test_under_sanitizers(tmp_path: Path, repository: Path) -> None:
    """The same library compiled with AddressSanitizer and UBSan: good and bad calls, no report."""
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-sanitize=vptr", "-g1", "-O1")
    # torch and Python keep what they allocate; refused sizes are errors of Python's, not reports.
    options = "detect_leaks=0:allocator_may_return_null=1:alloc_dealloc_mismatch=0"
    code = "import sys; from pathlib import Path; from compt_fast.native import build; "
    code += "build.compile_into(Path(sys.argv[1]), Path(sys.argv[2]), None, tuple(sys.argv[3:]))"
    compiling = [sys.executable, "-c", code, tmp_path, library.sources(), *flags]
    # It tries to load what it built, and cannot: the sanitizer's runtime has to come before all else.
    subprocess.run(list(map(str, compiling)), cwd=repository, capture_output=True, check=False)
    assert (tmp_path / build.LIBRARY).is_file()

    compiler = os.environ.get("CXX", "c++")
    runtimes = [
        subprocess.check_output([compiler, f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    first = {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [sys.executable, "-m", "tests.helpers.abuse", str(tmp_path / build.LIBRARY), "0", str(MANY)]
    done = subprocess.run(command, cwd=repository, env=os.environ | first, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ERROR: AddressSanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) == MANY
