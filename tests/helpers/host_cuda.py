"""The CUDA kernels of the assembly, compiled for the host and run there: see `tests/native/host_cuda`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compt_fast.native import library

HERE = Path(__file__).resolve().parent.parent / "native" / "host_cuda"
KERNELS = library.sources() / "assembly_cuda.cu"
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]  # as in csrc/assembly.h

ADDRESSES = ("-fsanitize=address,undefined,alignment", "-fno-sanitize-recover=all")
RACES = ("-fsanitize=thread",)


class Failure(Exception):
    """A sanitizer's report, or what the driver or the threads' emulation refused."""


@dataclass(frozen=True)
class Case:
    """An assembly (arguments as the operator's) and a gradient of its packed input, on the host.

    The tensors are laid out as their strides say; `shifts` moves those named in it by so many bytes
    from a boundary of 64. Slots, ids and cu_seqlens may be wrong in any way.
    """

    arguments: dict[str, Any]
    grad: Tensor
    shifts: dict[str, int]

    def packed(self) -> bytes:
        """As `driver.cpp` reads it."""
        index = [self.arguments[name] for name in ("prompt_cu_seqlens", "slots", "input_cu_seqlens", "token_ids")]
        prompts, embedding = self.arguments["prompts"], self.arguments["embedding"]
        matrices = {"prompts": prompts, "embedding": embedding, "grad": self.grad}
        memory = [_memory(matrix) for matrix in matrices.values()]
        header = [
            FLOATS.index(prompts.dtype),
            FLOATS.index(embedding.dtype),
            int(self.arguments["prepend"]),
            len(self.arguments["prompt_cu_seqlens"]) - 1,
            len(self.arguments["slots"]),
            *self.grad.shape,
            len(prompts),
            len(embedding),
            len(self.arguments["token_ids"]),
            *(matrix.stride(0) for matrix in matrices.values()),
            *(self.shifts.get(name, 0) for name in matrices),
            *map(len, memory),
        ]
        return b"".join([*map(_bytes, [torch.tensor(header), *index]), *memory])

    def result(self, raw: bytearray) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets, packed input and the gradient's sums, taken from the front of `raw`."""
        sums = torch.float64 if self.grad.dtype == torch.float64 else torch.float32
        return (
            _taken(raw, torch.int64, (len(self.arguments["input_cu_seqlens"]),)),
            _taken(raw, self.grad.dtype, tuple(self.grad.shape)),
            _taken(raw, sums, tuple(self.arguments["prompts"].shape)),
        )


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def build(folder: Path, sanitizer: Sequence[str], kernels: Path = KERNELS) -> Path:
    """The driver with `kernels`, which alone are compiled under the sanitizer; in `folder`."""
    folder.mkdir(exist_ok=True)
    include = ["-I", HERE, "-I", library.sources()]
    common = [compiler(), "-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-g1", *include]
    device, program = folder / "kernels.o", folder / "driver"
    _compile([*common, *sanitizer, "-x", "c++", "-c", kernels, "-o", device])
    others = [HERE / name for name in ("driver.cpp", "host_cuda.cpp")]
    objects = [device]
    for source in others:
        objects.append(folder.parent / f"{source.stem}.o")
        if not objects[-1].exists():
            _compile([*common, "-O1", "-c", source, "-o", objects[-1]])
    _compile([compiler(), *sanitizer, *objects, "-o", program])
    return program


def run(program: Path, cases: Sequence[Case]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Packed cu_seqlens, packed input and prompts' gradient (in the dtype of its sums) of each case.

    Raises Failure with what the program said.
    """
    asked, told = program.with_name("cases"), program.with_name("results")
    asked.write_bytes(b"".join(case.packed() for case in cases))
    done = subprocess.run([program, asked, told], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(done.stderr)
    raw = bytearray(told.read_bytes())
    results = [case.result(raw) for case in cases]
    assert not raw
    return results


def missing() -> str | None:
    """What this needs and the machine lacks."""
    return None if shutil.which(compiler()) else f"needs a C++ compiler ({compiler()})"


def _compile(command: Sequence[str | Path]) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _memory(matrix: Tensor) -> bytes:
    """From the first element of `matrix` to its last, gaps between rows included."""
    assert matrix.numel() == 0 or matrix.stride(1) == 1
    elements = (len(matrix) - 1) * matrix.stride(0) + matrix.shape[1] if matrix.numel() else 0
    return _bytes(matrix.as_strided((elements,), (1,)))


def _taken(raw: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    empty = torch.empty(shape, dtype=dtype)
    count = empty.numel() * empty.element_size()
    piece = bytearray(raw[:count])
    del raw[:count]
    return torch.frombuffer(piece, dtype=dtype).reshape(shape) if count else empty
