"""`python -m compt_fast.info`: versions, device, engines, and what is missing and its cost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from compt_fast.cli.parser import CommandLine
from compt_fast.models.engines import ENGINES
from compt_fast.utils.environment import cpu, environment, versions
from compt_fast.utils.errors import exit_code
from compt_fast.utils.registry import summary
from compt_fast.utils.words import listed

if TYPE_CHECKING:
    from compt_fast.native import Status


@dataclass(frozen=True)
class Part:
    """An engine or a native part: whether it runs, and why or why not."""

    name: str
    active: bool
    why: str


@dataclass(frozen=True)
class Missing:
    """Something this machine lacks. `felt`: it costs a training run something."""

    what: str
    cost: str
    felt: bool


def _first_line(command: list[str], pattern: str) -> str | None:
    """The first line a program prints that matches `pattern`; None where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.strip() for line in done.stdout.splitlines())
    return next((line for line in lines if re.search(pattern, line)), None)


def compilers() -> dict[str, str | None]:
    """What the C++ compiler ($CXX, else c++ or g++) and nvcc say they are; None: not found."""
    names = (os.environ.get("CXX"), "c++", "g++")
    cxx = next((path for name in names if name and (path := shutil.which(name))), None)
    nvcc = shutil.which("nvcc")
    return {
        "c++": cxx and _first_line([cxx, "--version"], "."),
        "nvcc": nvcc and _first_line([nvcc, "--version"], "release"),
    }


def engines() -> list[Part]:
    """The ways to run the trunk, each by the first line of its file."""
    return [Part(name, True, summary("compt_fast.models.engines", name)) for name in ENGINES]


def native_parts() -> list[Part]:
    """The compiled parts, and why each is not active."""
    from compt_fast import native

    extension = native.status()
    return [
        Part("C++/CUDA extension", extension.active, extension.why),
        composition_kernels(),
    ]


def composition_kernels() -> Part:
    """Whether Triton kernels attend, compose and update prompts here."""
    import torch

    from compt_fast.kernels import unavailable
    from compt_fast.ops.compose import without_kernel

    name = "Triton kernels"
    refused = unavailable(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if refused:
        return Part(name, False, f"{refused}; PyTorch composes and updates the prompts, and no trunk attends by them")
    return Part(
        name,
        True,
        f"they attend in the fast engine, and compose and update the prompts, but for {listed(without_kernel())}, "
        "which PyTorch composes; a training says which path its runs take",
    )


def missing() -> list[Missing]:
    """What this machine lacks, and what each costs; nothing of it stops a training."""
    import torch

    from compt_fast import native

    has_gpu, extension = torch.cuda.is_available(), native.status()
    return [
        *_missing_hardware(has_gpu, torch.version.cuda, cpu()),
        *_missing_software(versions(), has_gpu),
        *_missing_extension(extension),
        *_missing_compilers(compilers(), extension.active),
    ]


def _missing_hardware(has_gpu: bool, cuda: str | None, processor: dict[str, Any]) -> Iterator[Missing]:
    if has_gpu:
        return
    where = f"training runs on the CPU, {processor['cores']} cores"
    if cuda is None and shutil.which("nvidia-smi"):
        yield Missing("a torch with CUDA (nvidia-smi is here)", where, True)
    else:
        yield Missing("a GPU", where, True)
    if processor["bf16"] is None:
        yield Missing("bf16 instructions", "--dtype bf16 is emulated, and slow, on this CPU", False)
    if processor["int8"] is None:
        instead = "fp32" if processor["bf16"] is None else "bf16"
        yield Missing("VNNI instructions", f"--dtype int8 predicts and evaluates in {instead} on this CPU", False)


def _missing_software(found: dict[str, str | None], has_gpu: bool) -> Iterator[Missing]:
    if found["datasets"] is None:
        yield Missing("datasets", "no data from the hub; local folders and mini work", True)
    if found["tensorboard"] is None:
        yield Missing("tensorboard", "no --track tensorboard; metrics.jsonl says the same", False)
    for name in ("matplotlib", "jinja2"):
        if found[name] is None:
            yield Missing(name, "no report of tables and figures; training and results need it not", False)
    if found["triton"] is None:
        yield Missing("triton", "PyTorch does on a GPU what Triton kernels would do quicker", has_gpu)


def _missing_extension(extension: Status) -> Iterator[Missing]:
    if extension.active or extension.pending:
        return
    why = extension.why.splitlines()[0].rstrip(":")  # a compiler's words follow
    yield Missing("the C++ extension", f"{why}; plain PyTorch trains more slowly", True)


def _missing_compilers(tools: dict[str, str | None], has_extension: bool) -> Iterator[Missing]:
    if tools["c++"] is None and has_extension:
        yield Missing("c++", "nothing while this torch stays: the C++ extension is built", False)
    if tools["nvcc"] is None:
        yield Missing("nvcc", "an extension built here serves the CPU only", False)


def missing_line() -> str | None:
    """One line of what is missing and costs a training run something; None where nothing does."""
    felt = [f"{gap.what} ({gap.cost})" for gap in missing() if gap.felt]
    return f"Not on this machine: {'; '.join(felt)}." if felt else None


def report() -> dict[str, Any]:
    """All that `info` prints, JSON-ready."""
    return environment() | {
        "compilers": compilers(),
        "engines": [asdict(part) for part in engines()],
        "native_parts": [asdict(part) for part in native_parts()],
        "missing": [asdict(gap) for gap in missing()],
    }


def render(facts: dict[str, Any]) -> str:
    """`report()` as the text a person reads."""
    about = [
        ("python", f"{facts['python']}, {facts['platform']}"),
        *((name, version or "not installed") for name, version in facts["packages"].items()),
        ("CUDA of torch", facts["cuda"] or "none: a CPU build"),
    ]
    gaps = [(gap["what"], gap["cost"]) for gap in facts["missing"]]
    sections = {
        f"compt_fast {facts['compt_fast']}": about,
        "Device": _device_rows(facts),
        "Compilers": [(name, tool or "not found") for name, tool in facts["compilers"].items()],
        "Engines": _part_rows(facts["engines"]),
        "Native parts": _part_rows(facts["native_parts"]),
        "Missing, and what it costs": gaps or [("nothing", "all that can be used is here")],
    }
    lines = []
    for title, rows in sections.items():
        width = max(len(name) for name, _ in rows)
        lines += [title, *(f"  {name:{width}}  {text}" for name, text in rows)]
    return "\n".join(lines)


def _device_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for index, gpu in enumerate(facts["gpus"]):
        text = f"{gpu['name']}, compute capability {gpu['capability']}, {_memory(gpu)}"
        rows.append((f"cuda:{index}", text))
    cores = f"{facts['cpu']['cores']} cores, {facts['threads']} threads"
    quick = "; ".join(f"{kind} instructions: {facts['cpu'][kind] or 'none'}" for kind in ("bf16", "int8"))
    rows.append(("cpu", f"{facts['cpu']['name']}, {cores}, {_memory(facts['cpu'])}; {quick}"))
    return rows


def _memory(device: dict[str, Any]) -> str:
    if device["memory_gib"] is None:
        return "memory not known"
    return f"{device['memory_gib']} GiB ({device['free_gib']} free)"


def _part_rows(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(p["name"], f"{'active' if p['active'] else 'not active'}: {p['why']}") for p in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, as text or with `--json` as one JSON object; returns the exit code."""
    parser = CommandLine(
        prog="compt-fast info",
        description="Versions, device, engines, and what is missing and what that costs.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)

    def work() -> int:
        facts = report()
        print(json.dumps(facts, indent=2) if arguments.json else render(facts))
        return 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
