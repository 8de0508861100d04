"""What a change of the code's structure must not change, bit for bit: prompts, losses, scores of small jobs.

    python -m tools.golden record golden.json     # before
    python -m tools.golden compare golden.json    # after; exit status 1, and what differs, where something does

The jobs are of `train` on a CPU in fp32, with one thread, by both engines: every preset at two seeds and two numbers
of steps (with stage one and two), every gate, router, normalisation, prompt encoder, a fleet of unlike runs of which
few train at once, the same fleet killed and resumed, and masks. Files of one machine and one version of torch are
comparable with each other only, so none is part of this repository.

Tensors are known by their values, not by their names or places within a run, so that these may change.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from compt_fast.config.choices import ENCODER_NAMES, GATE_NAMES, NORMALISATION_NAMES, ROUTER_NAMES, SHARINGS
from compt_fast.config.presets import PRESETS

SMALL = ["--tasks=mini_rte,mini_qnli", "--shots=4", "--eval-size=8", "--prompt-length=3", "--device=cpu"]
UNLIKE = ["--method=spp,pt,slpn,pi", "--lr-source=0.02,0.1", "--steps=4", "--source-steps=2", "--source-examples=8"]
FLEET = [*UNLIKE, "--runs-at-once=3", "--init=vocab", "--select=best", "--batch-size=3,16", "--checkpoint-every=1"]
JOBS: dict[str, list[str]] = {
    "presets": [
        f"--method={','.join(PRESETS)}",
        *("--seeds=0,1", "--steps=2,5", "--source-steps=3", "--source-examples=8", "--scoring=rank"),
    ],
    "gates": ["--method=spp,scp", f"--gates={','.join(GATE_NAMES)}", "--steps=3"],
    "routers": ["--method=spp,scp", f"--router={','.join(ROUTER_NAMES)}", "--steps=4", "--warmup=0.5"],
    "normalisations": ["--method=scp,sln", f"--normalisation={','.join(NORMALISATION_NAMES)}", "--steps=3"],
    "encoders": [
        "--method=spp",
        f"--encoder={','.join(ENCODER_NAMES)}",
        f"--encoder-sharing={','.join(SHARINGS)}",
        *("--encoder-hidden=16", "--steps=3", "--scoring=rank", "--lr-encoder=0.01"),
    ],
    "unlike runs": FLEET,
    "resumed": [*FLEET, "--scoring=rank"],
}
MASKED = ("gates", "normalisations")  # evaluated with every mask, too
ENGINES = ("fast", "reference")
KILLED_AT = 70  # the operation on files before which "resumed" is killed

Golden = dict[str, str]
"""A digest by "engine, job: what"."""


def quietly(main: Any, line: list[str]) -> int:
    """What a command's `main` returns for a line, its words kept for when it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code: int = main(line)
    if code != 0:
        print(said.getvalue(), file=sys.stderr)
    return code


def digest(value: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def tensors_of(path: Path) -> list[str]:
    """Digests of the tensors of a file, in the order of the digests."""
    with safe_open(path, "pt") as file:
        tensors = [file.get_tensor(name) for name in list(file.keys())]
    return sorted(hashlib.sha256(str(list(t.shape)).encode() + t.numpy().tobytes()).hexdigest() for t in tensors)


def found_in(folder: Path) -> Golden:
    """Digests of every prompt, run's losses and scores in a run folder, its stages and its store."""
    found: Golden = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if "checkpoints" not in path.parts:
            found[f"prompts of {path.parent.relative_to(folder)}"] = digest(tensors_of(path))
    for path in sorted(folder.rglob("metrics.jsonl")):
        losses = defaultdict(list)
        for record in map(json.loads, path.read_text().splitlines()):
            losses[record["run"]].append([record[key] for key in ("step", "loss", "gradient_norm", "learning_rate")])
        found |= {f"losses of {path.parent.relative_to(folder)} {run}": digest(own) for run, own in losses.items()}
    for path in sorted(folder.rglob("results.json")):
        for run in json.loads(path.read_text())["runs"]:
            found[f"scores of {path.parent.relative_to(folder)} {run['id']}"] = digest(run["tasks"])
    return found


def job(name: str, engine: str, folder: Path) -> Golden:
    """Train one of `JOBS` and look at what it left."""
    from compt_fast import evaluate, train

    line = [*SMALL, *JOBS[name], f"--engine={engine}", f"--out={folder}"]
    if name == "resumed":
        from tools.kills import KILLED, Fault, forked

        code, said, _ = forked(line, folder.parent, Fault("operation", KILLED_AT))
        assert code == KILLED and any(folder.rglob("step-*.safetensors")), f"{code}: {said}"
        line = [f"--resume={folder}"]
    assert quietly(train.main, line) == 0
    found = found_in(folder)
    if name in MASKED:
        for how in ("before", "after"):
            assert quietly(evaluate.main, [str(folder), "--masks=each", f"--mask-how={how}"]) == 0
            found[f"masks {how}"] = digest(json.loads((folder / "masked.json").read_text()))
    return found


def golden() -> Golden:
    """All jobs by all engines."""
    import torch

    torch.set_num_threads(1)
    found: Golden = {}
    for engine in ENGINES:
        for name in JOBS:
            with tempfile.TemporaryDirectory(prefix="golden-") as work:
                own = job(name, engine, Path(work) / "job" if name == "resumed" else Path(work) / "out")
            found |= {f"{engine}, {name}: {what}": value for what, value in own.items()}
            print(f"{engine:10} {name:15} {len(own):4} digests  {digest(own)}", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Record, or compare; 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.golden", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("act", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    given = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of which a fork would complain
    before = json.loads(given.file.read_text()) if given.act == "compare" else None
    found = golden()
    if before is None:
        given.file.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    differ = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    for name in differ:
        print(f"{name}: {before.get(name, 'nothing')} before, {found.get(name, 'nothing')} now")
    print(f"{len(found)} digests, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
