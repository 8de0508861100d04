"""What is read from a kernel's code, and what fits a multiprocessor."""

from __future__ import annotations

import pytest

from tools.machine_code import Needs, accesses, products

PTX = """
	ld.param.b64 %rd2, [_forward_param_1];
	@%p2 ld.global.v4.b32 { %r46, %r47, %r48, %r49 }, [ %rd18 + 0 ];
	@%p9 ld.global.L1::evict_last.L2::cache_hint.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ], %rd9;
	ld.global.b16 { %rs1 }, [ %rd13 + 0 ];
	ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];
	cp.async.cg.shared.global [ %r62 + 0 ], [ %rd22 + 0 ], 0x10, %r63;
	cp.async.ca.shared.global [ %r64 + 0 ], [ %rd23 + 0 ], 0x4;
	@%p3 st.global.v4.b32 [ %rd50 + 0 ], { %r7, %r8, %r9, %r10 };
	wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, %p1, 1, 1, 0, 0;
"""


def test_accesses_are_counted_by_their_bytes() -> None:
    assert accesses(PTX) == {16: 3, 8: 1, 4: 1, 2: 1}


@pytest.mark.parametrize(
    ("ptx", "name"),
    [
        (PTX, "wgmma"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r2};", "mma.sync"),
        ("tcgen05.mma.cta_group::1.kind::f16 [ %r1 + 0 ], %rd1, %rd2, %r2, %p1;", "tcgen05"),
        ("wgmma.fence.sync.aligned; tcgen05.wait::ld.sync.aligned; fma.rn.f32 %r1, %r2, %r3, %r4;", ""),
    ],
)
def test_what_multiplies(ptx: str, name: str) -> None:
    assert products(ptx) == name


@pytest.mark.parametrize(
    ("needs", "target", "programs"),
    [
        (Needs(4, 32, 0), 80, 16),  # 64 warps
        (Needs(1, 32, 0), 80, 32),
        (Needs(4, 128, 0), 90, 4),  # 65,536 registers
        (Needs(4, 129, 0), 90, 3),  # 136 a thread, 12 warps and not the 15 that would go by registers alone
        (Needs(4, 255, 0), 100, 2),
        (Needs(4, 64, 99 * 1024), 80, 1),  # 164 KiB
        (Needs(4, 64, 99 * 1024), 90, 2),  # 228 KiB
        (Needs(4, 64, 113 * 1024), 90, 2),  # each with a KiB more
        (Needs(4, 64, 114 * 1024), 90, 1),
        (Needs(4, 32, 1024, 256), 100, 2),  # 512 columns of tensor memory
    ],
)
def test_programs_that_fit(needs: Needs, target: int, programs: int) -> None:
    assert needs.programs(target) == programs
