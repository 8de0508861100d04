"""`python -m compt_fast.train`: train a fleet of prompts over one frozen T5 and print its table."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from safetensors import SafetensorError

from compt_fast.errors import InputError, exit_code, out_of_memory
from compt_fast.flags import FLAGS, Flags, add_flags, read_flags

if TYPE_CHECKING:
    from compt_fast.fleet.checkpoint import Checkpoint
    from compt_fast.fleet.monitor import Monitor
    from compt_fast.fleet.trainer import Trainer

EXAMPLES = """examples:
  python -m compt_fast.train
      the embedded tasks and trunk, offline: spp, pt and mst side by side
  python -m compt_fast.train --suite glue --model t5-base --method pt,mst,spp,scp \\
      --shots 8,16,32 --seeds 0,1,2
      a whole table of ComPT as one fleet of 36 runs
  python -m compt_fast.train --method spp --lr-private 0.01,0.02,0.05
      a learning-rate grid
  python -m compt_fast.train --resume runs/mini-20260101-120000
      goes on where an interrupted job stopped

exit codes: 0 all runs finished; 1 some run was stopped (not finite) or the job failed; 2 wrong
input, or out of memory or disk; 130 or 143 interrupted (Ctrl-C, SIGTERM), a checkpoint is left"""


def parser() -> argparse.ArgumentParser:
    """The command line of `train`."""
    made = argparse.ArgumentParser(
        prog="compt-fast train",
        description="Train multi-task soft prompts on a frozen T5: many runs in one pass.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config",
        metavar="FILE",
        help="flags from a TOML, YAML or JSON file (a run's config.json too)",
    )
    made.add_argument("--resume", metavar="DIR", help="go on with the run folder DIR; takes no other flag")
    add_flags(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    config, resume = given.pop("config"), given.pop("resume")

    def work() -> int:
        if resume is None:
            return start(read_flags(given, config), sys.argv[1:] if argv is None else argv)
        named = [FLAGS[key].name for key, value in given.items() if value is not None]
        named += ["config"] if config is not None else []
        if named:
            raise InputError(f"--resume takes every setting from the run folder: leave out --{named[0]}")
        return go_on(Path(resume))

    return exit_code(work, out_of_memory_hint=" outside of training: take a smaller --model, or --device cpu")


def start(flags: Flags, arguments: list[str]) -> int:
    """A new job in a new run folder, which is made once everything else is known to be right."""
    from compt_fast.fleet.job import open_job, prepare_folder, run_folder
    from compt_fast.fleet.trainer import Trainer

    folder = run_folder(flags)
    job = open_job(flags)
    trainer = Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.flags, folder)
    prepare_folder(folder, job, ["compt-fast", "train", *arguments])
    return _work(trainer, saved=None)


def go_on(folder: Path) -> int:
    """The job of an existing run folder, from its latest checkpoint, or anew if it has none."""
    from compt_fast.fleet.checkpoint import load_latest
    from compt_fast.fleet.job import check_recorded, open_job
    from compt_fast.fleet.trainer import Trainer

    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"--resume {folder}: no run folder (it has no config.json)")
    flags = read_flags({}, str(path))
    saved = load_latest(folder / "checkpoints")
    job = open_job(flags)
    check_recorded(folder, job)
    trainer = Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.flags, folder)
    return _work(trainer, saved)


def _work(trainer: Trainer, saved: Checkpoint | None) -> int:
    """Train, score and report; the checkpoint left behind tells what was done, whatever ends it."""
    from compt_fast.fleet.monitor import Monitor
    from compt_fast.fleet.report import print_plan, print_results

    console = Console(markup=False)  # brackets in names are no markup
    print_plan(console, trainer)
    try:
        with Monitor(
            trainer.folder,
            trainer.total_steps,
            console,
            tensorboard=trainer.flags["tensorboard"],
        ) as monitor:
            if saved is not None:
                trainer.restore(monitor, saved)
            else:
                monitor.rewind(0, 0)
            trainer.write_results()
            interrupted = _train(trainer, monitor)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{trainer.folder}: writing failed at step {trainer.step}: {error}") from None
    if interrupted:
        resume = f"python -m compt_fast.train --resume {shlex.quote(str(trainer.folder))}"
        print(f"interrupted at step {trainer.step}; go on with: {resume}", file=sys.stderr)
        return 128 + interrupted
    if trainer.trunk.fingerprint() != trainer.trunk_hash:
        raise RuntimeError("a weight of the frozen trunk has changed during training: its results are void")
    print_results(console, trainer)
    return 0 if all(result.status == "finished" for result in trainer.ended) else 1


def _train(trainer: Trainer, monitor: Monitor) -> int:
    """Train to the end; returns the number of the signal that came before it, else 0."""
    from compt_fast.fleet.interrupts import Interrupted, Interrupts

    try:
        with Interrupts() as interrupts:
            trainer.train(monitor, interrupts)
    except Interrupted as interrupted:
        trainer.save(monitor)
        trainer.write_results()
        return interrupted.signal
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if not trainer.midway:
            trainer.save(monitor)
        left = "the checkpoint before it, if any, is left" if trainer.midway else "a checkpoint is left"
        raise InputError(
            f"out of memory at step {trainer.step}: begin again with a lower --runs-at-once, "
            f"--batch-size, --max-source-length or --eval-batch-size; {left} for a --resume where "
            "there is more memory"
        ) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
