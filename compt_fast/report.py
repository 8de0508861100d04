"""`python -m compt_fast.report RUN [RUN ...] -o DIR`: the tables and figures of both papers from trained runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.choices import RANKINGS
from compt_fast.evaluate import add_way
from compt_fast.utils.errors import InputError, exit_code

if TYPE_CHECKING:
    from rich.progress import Progress

    from compt_fast.analysis.exhibits import Section
    from compt_fast.analysis.runs import Entry, Material

_PACKAGES = ("matplotlib", "jinja2")

EXAMPLES = """examples:
  python -m compt_fast.report runs/mini-20260101-120000
      every table and figure that the runs of this folder allow; open its report/index.html
  python -m compt_fast.report runs/with-prefix runs/without-prefix -o report --no-masking
      two jobs side by side, without the masked evaluations (which need the trunk)
  python -m compt_fast.report store -o report
      how alike the prompts of a store are

exit codes: 0 the page is written (it says what was missing); 2 wrong input, or out of memory"""


def parser() -> CommandLine:
    """The command line of `report`."""
    made = CommandLine(
        prog="compt-fast report",
        description="Make the tables and figures of both papers from trained runs: one self-contained page, with every "
        "picture and table beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "folders",
        metavar="RUN",
        type=file_path,
        nargs="+",
        help="run folders of compt_fast.train, folders of run folders, or prompt stores",
    )
    made.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        type=file_path,
        help="where the report goes (default, of one run folder: RUN/report)",
    )
    made.add_argument(
        "--runs",
        metavar="ID[,ID]",
        help="the runs whose prompts are looked into (default: of each method and number of sources, router, gates and "
        "label words, the first seed at the most shots)",
    )
    made.add_argument(
        "--no-masking",
        dest="masking",
        action="store_false",
        help="do not score masked prompts that a run folder's masked.json lacks (it needs the trunk and the rows, and "
        "takes one evaluation a mask)",
    )
    add_way(made)
    made.add_argument(
        "--rank-by",
        choices=RANKINGS,
        default="test",
        help="which scores say what leads and what is best: those of the test rows, which are then no fair estimate of "
        "what was chosen, or those of the development sample, which --select best of train measures (default: test)",
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = parser().parse_args(argv)
    console = Console(markup=False)  # brackets in names are no markup
    return exit_code(
        lambda: report(given, console),
        out_of_memory_hint=": leave the masked evaluations out with --no-masking",
    )


def _beside(folders: Sequence[Path]) -> Path:
    """Where the report of one run folder goes; `InputError` for other material."""
    if len(folders) == 1 and (folders[0] / "config.json").is_file():
        return folders[0] / "report"
    raise InputError("say where the report goes, with -o DIR; of one run folder alone it goes into its report/")


def report(given: argparse.Namespace, console: Console) -> int:
    """Read, measure what is lacking, draw and write, by the flags of `parser`."""
    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise InputError(f"a report needs {' and '.join(lacking)}: pip install {' '.join(lacking)}")
    from rich.progress import Progress

    from compt_fast.analysis.page import write_report
    from compt_fast.analysis.runs import portraits, ranked_by, read_runs
    from compt_fast.runs.masking import Way

    out = given.out or _beside(given.folders)
    way = Way(given.mask_how or Way.how, given.mask_tokens or Way.tokens)
    material = replace(ranked_by(read_runs(given.folders), given.rank_by), way=way)
    material.portraits.extend(portraits(material.entries, given.runs.split(",") if given.runs else None))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        _add_masked(material, given.masking, progress)
        sections, absent = _sections(material)
        drawing = progress.add_task("drawing", total=sum(len(section.all()) for section in sections))
        page = write_report(
            out,
            sections,
            title="Composed prompts: what the runs say",
            about=_about(material),
            missing=material.missing,
            absent=absent,
            after_each=lambda: progress.advance(drawing),
        )
    for line in material.missing:
        console.print(f"missing: {line}", soft_wrap=True)
    if absent:
        console.print(f"not in the report: {absent}", soft_wrap=True)
    console.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
    return 0


def _add_masked(material: Material, masking: bool, progress: Progress) -> None:
    """Read the masked scores of the portraits, and measure those that are lacking, folder by folder."""
    from compt_fast.analysis.about_masks import mask_count, measure, measured

    counts = {entry.prompts: mask_count(entry) for entry in material.portraits}
    wanted = [entry for entry in material.portraits if counts[entry.prompts] > 1]
    lacking = [entry for entry in wanted if measured(entry, material.way) is None]
    if masking and lacking:
        task = progress.add_task("scoring masked prompts", total=sum(counts[entry.prompts] for entry in lacking))
        by_folder: dict[Path, list[Entry]] = {}
        for entry in lacking:
            by_folder.setdefault(entry.folder, []).append(entry)
        for folder, entries in by_folder.items():
            try:
                measure(entries, material.way, lambda: progress.advance(task))
            except InputError as error:
                material.missing.append(f"{material.names[folder]}: masked scores: {error}")
    for entry in wanted:
        masks = measured(entry, material.way)
        if masks is not None:
            material.masked[entry.prompts] = masks
    if lacking and not masking:
        those = ", ".join(entry.id for entry in lacking)
        material.missing.append(f"scores {material.way.name} of {those} (--no-masking)")


def _sections(material: Material) -> tuple[list[Section], str]:
    """The sections that the material allows, and what would give the others; of a store alone there is one."""
    from compt_fast.analysis import about_choices, about_masks, about_prompts, about_scores, about_search

    makers: list[tuple[Callable[[Material], Section | None], str]] = [
        (about_search.search, "search (--search SPACE)"),
        (about_scores.results, "results (a finished run)"),
        (about_scores.methods, "methods (--method pt,spp)"),
        (about_scores.shots, "shot curves (--shots 8,16,32)"),
        (about_scores.sources, "number of sources (--sources 1,2,3)"),
        (about_choices.rates, "learning rates (--lr-source 0.05,0.1 --lr-private 0.02,0.05)"),
        (about_choices.router, "constant weights (--router direct,constant)"),
        (about_choices.gates, "gates (--gates fixed,learned)"),
        (about_choices.prefix, "prefix (a second job with --no-prefix)"),
        (about_choices.label_modes, "label words (--label-mode natural,synthetic,numeric)"),
        (about_choices.inclusion, "a task more (a second job with --include TASK)"),
        (about_prompts.router, "router weights (--method spp)"),
        (about_prompts.similarity, "target-source similarity (--method spp)"),
        (about_prompts.weighted, "weighted similarity (--method spp)"),
        (about_prompts.tokens, "task similarity (two tasks or more)"),
        (about_masks.masking, "masking (--method spp, and a report without --no-masking)"),
        (about_masks.confusion, "confusion by masking (the same)"),
    ] * bool(material.folders)
    alone = "two prompts of one width" if material.stores else "a prompt store beside the runs"
    makers.append((about_prompts.stored, f"stored prompts ({alone})"))
    made = [(maker(material), needs) for maker, needs in makers]
    sections = [section for section, _ in made if section is not None]
    return sections, "; ".join(needs for section, needs in made if section is None)


def _about(material: Material) -> list[str]:
    """What the report was made from, in a few lines."""
    from compt_fast.analysis.about_scores import panels
    from compt_fast.analysis.runs import metric_of
    from compt_fast.utils.words import listed, plural, short

    lines = []
    if material.folders:
        counts = [sum(entry.folder == folder for entry in material.entries) for folder in material.folders]
        names = [material.names[folder] for folder in material.folders]
        runs = [f"{plural(n, 'run')} in {name}" for n, name in zip(counts, names, strict=True)]
        trunks = dict.fromkeys(Path(entry.job.model).name for entry in material.entries)
        lines.append(f"Finished: {listed(runs)}. " + (f"Trunk: {listed(list(trunks))}." if trunks else ""))
    for suite, entries in panels(material).items():
        metrics = metric_of(entries[0])
        lines.append(f"Tasks of {suite}: {', '.join(short(entries[0].tasks))}. Scores are percentages: {metrics}.")
    if material.entries:
        lines.append(f"What leads and what is best is said by {material.entries[0].by} scores.")
    lines += [f"Prompt store: {material.names[store]}." for store in material.stores]
    return lines


if __name__ == "__main__":
    sys.exit(main())
