"""`python -m compt_fast.train`: train a fleet of prompts over one frozen T5 and print its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.flags import add_flag, add_flags, meaning, read_flags, value_of
from compt_fast.config.job import JobSettings
from compt_fast.runs.recipes import check_rows, settings_of
from compt_fast.scaling.cluster import SPREAD, Spread, scaled
from compt_fast.utils.cluster import HERE
from compt_fast.utils.errors import FIRST_SIGNAL, InputError, exit_code

if TYPE_CHECKING:
    from compt_fast.runs.estimate import Estimate
    from compt_fast.runs.pipeline import Pipeline
    from compt_fast.scaling.conduct import Scaled
    from compt_fast.training.loop import Trainer

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
  python -m compt_fast.train --method spp,pt,finetune,adapter-m,lora
      prompts side by side, then what they are held against, one after another
  python -m compt_fast.train --config recipes/compt-table-1.toml --mini
      a table of a paper on the embedded suites; without --mini on GLUE with t5-base
  python -m compt_fast.train --method spp --lr-private 0.005,0.01,0.02,0.05 --lr-source 0.005,0.02 --halve
      the same search, in which what does badly on development is stopped early
  python -m compt_fast.train --search recipes/spaces/methods.toml --trials 200
      methods, rates, lengths and gates in one space, of which a sampler chooses (docs/search.md)
  python -m compt_fast.train --resume runs/mini-20260101-120000
      goes on where an interrupted job stopped
  python -m compt_fast.train --resume runs/mini-20260101-120000 --seeds 0,1,2,3,4
      extends a finished sweep: only the runs that it has not are trained
  python -m compt_fast.train --suite glue --model t5-base --seeds 0,1,2,3,4 --ray auto
      over every GPU of the Ray cluster that this machine is of; --resume goes on with or without it

exit codes: 0 all runs finished, or were stopped early and can go on; 1 some run was not finite, or the job failed;
2 wrong input, or out of memory or disk; 129, 130 or 143 interrupted (closed terminal, Ctrl-C, SIGTERM), 141 where
nobody reads the output any more (| head): a checkpoint is left"""


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
    made.add_argument(
        "--runs",
        metavar="ID[,ID]",
        help="with --resume: take runs that were stopped up again, by id, and train them to their ends",
    )
    group = made.add_argument_group("Ray: this process keeps the run folder, and trainers on a cluster train")
    group.add_argument(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help="the cluster's address, auto for the one that this machine is of; alone, one on this machine for this job",
    )
    for flag in SPREAD.values():
        add_flag(group, flag, f"{meaning(flag)}" + ("" if flag.default is None else f" (default: {flag.default})"))
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
    made.add_argument(
        "--jobs",
        metavar="NAME[,NAME]",
        help="of a --config file with several jobs these alone; a flag given beside such a file is for the jobs that "
        "have a use for it",
    )
    add_flags(made)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    given = vars(parser().parse_args(arguments))
    config, resume, mini, only, runs = (given.pop(name) for name in ("config", "resume", "mini", "jobs", "runs"))
    address, of_trainers = given.pop("ray"), {key: given.pop(key) for key in SPREAD}

    def work() -> int:
        spread = _spread(address, of_trainers)
        if resume is None:
            if runs is not None:
                raise InputError("--runs names runs of a folder that were stopped: say which by --resume DIR")
            return start_all(settings_of(given, config, mini, only), arguments, spread)
        for name, value in (("config", config), ("mini", mini or None), ("jobs", only), ("out", given["out"])):
            if value is not None:
                raise InputError(f"--resume takes every other setting from the run folder: leave out --{name}")
        return go_on(resume, given, arguments, [] if runs is None else runs.split(","), spread)

    return exit_code(work, out_of_memory_hint=" outside of training: take a smaller --model, or --device cpu")


def _spread(address: str | None, given: dict[str, str | None]) -> Spread | None:
    """How the line wants the job spread over a cluster, None where it does not."""
    if address is None:
        for key, value in given.items():
            if value is not None:
                raise InputError(f"--{SPREAD[key].name} needs --ray: without it this process trains")
        return None
    if find_spec("ray") is None:
        raise InputError("--ray needs the package ray: pip install 'compt-fast[ray]'")
    read = {key: value_of(SPREAD[key], value, f"--{SPREAD[key].name}") for key, value in given.items() if value}
    return Spread(**read, address=address)


def start_all(jobs: dict[str, JobSettings], arguments: list[str], spread: Spread | None = None) -> int:
    """The jobs of a configuration, one after another, and at the end their tables together; the highest exit code. A
    signal ends them all.
    """
    from compt_fast.runs.folder import own_folder
    from compt_fast.runs.together import print_together

    if len(jobs) > 1:
        check_rows(jobs)
    code = 0
    with _cluster(spread, *jobs.values()) as cluster:
        for number, (name, settings) in enumerate(jobs.items(), start=1):
            if name:
                print(f"job {number} of {len(jobs)}: {name}", flush=True)
            with own_folder(settings) as folder:
                code = max(code, train(folder, settings, arguments, cluster))
            if code >= FIRST_SIGNAL:
                return code
    if len(jobs) > 1:
        print_together(Console(markup=False), jobs)
    return code


def go_on(
    folder: Path, given: dict[str, Any], arguments: list[str], resumed: Sequence[str], spread: Spread | None = None
) -> int:
    """The job of an existing run folder, with what `given` adds to its runs; stopped ones that are `resumed` go on."""
    from compt_fast.runs.folder import check_begun, claimed

    check_begun(folder)
    settings = read_flags(given, str(folder / "config.json"))
    with _cluster(spread, settings) as cluster, claimed(folder):
        return train(folder, settings, arguments, cluster, resumed)


def _cluster(spread: Spread | None, *jobs: JobSettings) -> AbstractContextManager[Scaled | None]:
    """What trains these jobs on a cluster, None where this process trains."""
    if spread is None:
        return nullcontext()
    if any(settings.search is not None for settings in jobs):
        raise InputError("--search asks for its trials in the process that trains them: leave out --ray")
    return scaled(spread)


def train(
    folder: Path,
    settings: JobSettings,
    arguments: list[str],
    cluster: Scaled | None = None,
    resumed: Sequence[str] = (),
) -> int:
    """Say what is to be done in a folder that this process holds, and do it; nothing is written before all is known to
    be right.
    """
    from compt_fast.runs.estimate import estimate
    from compt_fast.runs.pipeline import conduct, prepare

    console = Console(markup=False)  # brackets in names are no markup
    command = ["compt-fast", "train", *arguments]
    if cluster is None:
        pipeline = prepare(folder, settings, writing=True, resumed=resumed)
        _announce(console, pipeline, estimate)
        return conduct(pipeline, command, console)
    pipeline = prepare(folder, cluster.settled(settings), writing=True, resumed=resumed)
    _announce(console, pipeline, lambda trainer: None)  # what this machine would take says nothing
    console.print(str(cluster), soft_wrap=True)
    return conduct(pipeline, command, console, cluster.train)


def _announce(console: Console, pipeline: Pipeline, estimate: Callable[[Trainer], Estimate | None]) -> None:
    """Print what is about to be done."""
    from compt_fast import native
    from compt_fast.info import missing_line
    from compt_fast.runs.summary import print_plan, print_search_plan, steps_before
    from compt_fast.runs.survey import row_notes

    trainer, store = pipeline.stage_two.trainer, pipeline.store
    before = [(own, f"source prompts that the store {store.folder} lacks") for own in pipeline.stage_one]
    before += [(own, "a prompt that the source tasks share") for own in pipeline.sharing]
    for own, what in before:
        console.print(f"Stage one trains {what}:", soft_wrap=True)
        print_plan(console, own.trainer, estimate(own.trainer))
    for note in steps_before([own.trainer for own, _ in before], trainer.settings):
        console.print(f"note: {note}", soft_wrap=True)
    if before:
        console.print("Stage two:")
    if pipeline.stage_two.search is None:
        print_plan(console, trainer, estimate(trainer))
    else:
        print_search_plan(console, trainer, pipeline.stage_two.search)
    for note in row_notes(trainer.data):
        console.print(f"note: {note}", soft_wrap=True)
    missing = missing_line()
    if missing:
        console.print(missing, soft_wrap=True)
    native.keep_quiet(not native.status().pending)  # a build to come may still fail, in a job too short to measure


if __name__ == "__main__":
    sys.exit(main())
