"""`python -m compt_fast.train`: train a fleet of prompts over one frozen T5 and print its table."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from safetensors import SafetensorError

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.flags import Flags, add_flags, read_flags
from compt_fast.runs.recipes import flags_of
from compt_fast.utils.errors import InputError, exit_code, out_of_memory
from compt_fast.utils.output import OutputError, complain

if TYPE_CHECKING:
    from compt_fast.prompts.store import PromptStore
    from compt_fast.runs.initialisation import Initialisation
    from compt_fast.runs.job import Job
    from compt_fast.training.checkpoint import Checkpoint
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor

FIRST_SIGNAL = 128  # a command that signal N ended exits with 128 + N

EXAMPLES = """examples:
  python -m compt_fast.train
      the embedded tasks and trunk, offline: spp, pt and mst side by side
  python -m compt_fast.train --suite glue --model t5-base --method pt,mst,spp,scp \\
      --shots 8,16,32 --seeds 0,1,2
      a whole table of ComPT as one fleet of 36 runs
  python -m compt_fast.train --method spp --lr-private 0.01,0.02,0.05
      a learning-rate grid
  python -m compt_fast.train --method p,pi,sl,slp,sln,slpn,sil,sip,silp --shots 8,32 --seeds 0,1,2
      CrossPT's nine configurations; the source prompts that four of them start from are trained first
  python -m compt_fast.train --config recipes/compt-table-1.toml --mini
      a table of a paper on the embedded suites; without --mini on GLUE with t5-base
  python -m compt_fast.train --resume runs/mini-20260101-120000
      goes on where an interrupted job stopped
  python -m compt_fast.train --resume runs/mini-20260101-120000 --seeds 0,1,2,3,4
      extends a finished sweep: only the runs that it has not are trained

exit codes: 0 all runs finished; 1 some run was stopped (not finite) or the job failed; 2 wrong
input, or out of memory or disk; 129, 130 or 143 interrupted (closed terminal, Ctrl-C, SIGTERM), 141 where nobody
reads the output any more (| head): a checkpoint is left"""


def parser() -> CommandLine:
    """The command line of `train`."""
    made = CommandLine(
        prog="compt-fast train",
        description="Train multi-task soft prompts on a frozen T5: many runs in one pass.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--resume",
        metavar="DIR",
        type=file_path,
        help="go on with the run folder DIR; flags of runs given with it replace its own and must hold more values",
    )
    add_job(made)
    return made


def add_job(made: CommandLine) -> None:
    """Add all that says what a job is."""
    made.add_argument(
        "--config",
        metavar="FILE",
        help="flags from a TOML, YAML or JSON file (a recipe, a run's config.json); those given beside it come first",
    )
    made.add_argument(
        "--mini",
        action="store_true",
        help="the embedded trunk, and the embedded suites in place of those of the --config file",
    )
    add_flags(made)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    given = vars(parser().parse_args(arguments))
    config, resume, mini = given.pop("config"), given.pop("resume"), given.pop("mini")

    def work() -> int:
        if resume is None:
            return start_all(flags_of(given, config, mini), arguments)
        for name, value in (("config", config), ("mini", mini or None), ("out", given["out"])):
            if value is not None:
                raise InputError(f"--resume takes every other setting from the run folder: leave out --{name}")
        return go_on(resume, given, arguments)

    return exit_code(work, out_of_memory_hint=" outside of training: take a smaller --model, or --device cpu")


def start_all(jobs: dict[str, Flags], arguments: list[str]) -> int:
    """The jobs of a configuration, one after another; the highest exit code. A signal ends them all."""
    code = 0
    for number, (name, flags) in enumerate(jobs.items(), start=1):
        if name:
            print(f"job {number} of {len(jobs)}: {name}", flush=True)
        code = max(code, start(flags, arguments))
        if code >= FIRST_SIGNAL:
            break
    return code


def start(flags: Flags, arguments: list[str]) -> int:
    """A new job, or further runs of one that is there, in the folder that `flags` name."""
    from compt_fast.runs.folder import own_folder

    with own_folder(flags) as folder:
        return conduct(folder, flags, arguments)


def go_on(folder: Path, given: dict[str, Any], arguments: list[str]) -> int:
    """The job of an existing run folder, with what `given` adds to its runs."""
    from compt_fast.runs.folder import claimed, is_unbegun

    path = folder / "config.json"
    if not path.is_file():
        hint = f"; a job ended here before it had begun: give its flags again, with --out {shlex.quote(str(folder))}"
        raise InputError(
            f"--resume {folder}: no run folder (it has no config.json)" + (hint if is_unbegun(folder) else "")
        )
    with claimed(folder):
        return conduct(folder, read_flags(given, str(path)), arguments)


@dataclass(frozen=True)
class Prepared:
    """A job, and what it begins with: all is opened and checked, and nothing is written."""

    job: Job
    saved: Checkpoint | None
    store: PromptStore
    starts: Initialisation
    stage_one: list[tuple[Job, Checkpoint | None, Trainer]]
    trainer: Trainer


def prepare(folder: Path, flags: Flags, *, writing: bool) -> Prepared:
    """Open the job of `folder`, new or to go on with; raises `InputError` for whatever is wrong with it.

    With `writing`, what a stage one before had finished goes into the store; else nothing is written.
    """
    from compt_fast import native
    from compt_fast.prompts.store import PromptStore
    from compt_fast.runs.initialisation import Initialisation
    from compt_fast.runs.job import open_job
    from compt_fast.runs.stage_one import open_stage_one, take_in

    native.keep_quiet()  # of a build that fails the plan tells
    job = open_job(flags, folder=folder)
    saved = _state(folder, job)
    done = saved.state["results"] if saved else ()
    store = PromptStore(Path(flags["store"] or folder / "store"))
    starts = Initialisation(job, store, [run for run in job.runs if run.id not in done])
    if writing:
        take_in(starts, folder)
    stage_one = []
    for own_folder, own_job in open_stage_one(folder, job, starts.lacking()):
        own_saved = _state(own_folder, own_job)
        stage_one.append((own_job, own_saved, _trainer(own_folder, own_job, own_saved)))
    return Prepared(job, saved, store, starts, stage_one, _trainer(folder, job, saved, starts))


def conduct(folder: Path, flags: Flags, arguments: list[str]) -> int:
    """Train what a job lacks: the source prompts that its store has not, then its runs, each from
    the latest checkpoint.

    The folder is made, or extended, once everything else is known to be right.
    """
    from compt_fast.runs.folder import claimed
    from compt_fast.runs.job import prepare_folder, record_stored
    from compt_fast.runs.stage_one import keep

    made = prepare(folder, flags, writing=True)
    job, saved, store, starts, trainer = made.job, made.saved, made.store, made.starts, made.trainer
    console = Console(markup=False)  # brackets in names are no markup
    _announce(console, trainer, [own for _, _, own in made.stage_one], store)
    command = ["compt-fast", "train", *arguments]
    prepare_folder(folder, job, command)
    if saved is None:
        trainer.write_results()
    for own_job, own_saved, own in made.stage_one:
        with nullcontext() if own.folder.exists() else claimed(own.folder):  # with the job's folder the old ones are
            prepare_folder(own.folder, own_job, command)
            code = _work(console, own, own_saved, folder)
        if code >= FIRST_SIGNAL:
            return code
        keep(store, own.folder, own.ended)
    starts.refresh()
    record_stored(folder, starts.used())
    return _work(console, trainer, saved, folder)


def _state(folder: Path, job: Job) -> Checkpoint | None:
    """The latest whole checkpoint of a job in its folder, None before the first; `InputError` where the
    folder is another job's, or prompts of a run that had ended are gone.
    """
    from compt_fast.runs.job import check_recorded
    from compt_fast.training.checkpoint import load_latest

    if not (folder / "config.json").is_file():
        return None
    check_recorded(folder, job)
    saved = load_latest(folder / "checkpoints", job.identity)
    if saved is not None and saved.damaged:
        complain(f"note: {saved.damaged}; going on from {saved.path.name}, the one before it")
    for name, result in saved.state["results"].items() if saved else ():
        parts = [folder / "prompts" / name / part for part in ("manifest.json", "prompts.safetensors")]
        gone = [part for part in parts if not part.is_file()] if result["status"] == "finished" else []
        if gone:
            raise InputError(
                f"{gone[0]}: not there, though its run has ended, and no checkpoint holds it any more: put back a "
                f"copy, or remove {folder / 'checkpoints'} and the job trains all its runs again"
            )
    return saved


def _trainer(folder: Path, job: Job, saved: Checkpoint | None, starts: Initialisation | None = None) -> Trainer:
    """The trainer of a job, that knows what was done by a checkpoint."""
    from compt_fast.tasks.examples import seen_nothing
    from compt_fast.training.loop import Trainer, from_nothing

    start, seen = (from_nothing, seen_nothing) if starts is None else (starts.of, starts.seen)
    made = Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.flags, folder, start, seen)
    if saved is not None:
        made.note_results(saved)
    return made


def _announce(console: Console, trainer: Trainer, stage_one: list[Trainer], store: PromptStore) -> None:
    """Print what is about to be done."""
    from compt_fast import native
    from compt_fast.info import missing_line
    from compt_fast.runs.estimate import estimate
    from compt_fast.runs.summary import print_plan
    from compt_fast.runs.survey import row_notes

    for own in stage_one:
        console.print(f"Stage one trains source prompts that the store {store.folder} lacks:", soft_wrap=True)
        print_plan(console, own, estimate(own))
    if stage_one:
        console.print("Stage two:")
    print_plan(console, trainer, estimate(trainer))
    for note in row_notes(trainer.data):
        console.print(f"note: {note}", soft_wrap=True)
    missing = missing_line()
    if missing:
        console.print(missing, soft_wrap=True)
    native.keep_quiet(not native.status().pending)  # a build to come may still fail, in a job too short to measure


def _work(console: Console, trainer: Trainer, saved: Checkpoint | None, job_folder: Path) -> int:
    """Train, score and report; the checkpoint left behind tells what was done, whatever ends it.

    `job_folder` is what `--resume` takes to go on, which is not the trainer's own in stage one.
    """
    from compt_fast.runs.summary import print_results
    from compt_fast.training.monitor import Monitor

    resume = f"python -m compt_fast.train --resume {shlex.quote(str(job_folder))}"
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
    except OutputError:
        complain(f"the output cannot be written any more; at step {trainer.step}, go on with: {resume}")
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(f"{trainer.folder}: writing failed at step {trainer.step}: {error}") from None
    if interrupted:
        complain(f"interrupted at step {trainer.step}; go on with: {resume}")
        return FIRST_SIGNAL + interrupted
    if trainer.trunk.fingerprint() != trainer.trunk_hash:
        raise RuntimeError("a weight of the frozen trunk has changed during training: its results are void")
    print_results(console, trainer)
    return 0 if all(result.status == "finished" for result in trainer.ended) else 1


def _train(trainer: Trainer, monitor: Monitor) -> int:
    """Train to the end; returns the number of the signal that came before it, else 0."""
    from compt_fast.training.interrupts import Interrupted, Interrupts

    try:
        with Interrupts() as interrupts:
            trainer.train(monitor, interrupts)
    except Interrupted as interrupted:
        trainer.save(monitor)
        trainer.write_results()
        return interrupted.signal
    except OutputError:
        if not trainer.midway:
            trainer.save(monitor)
            trainer.write_results()
        raise
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
