"""`python -m compt_fast.store`: list, show, add, combine, remove and check the stored prompts of a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from compt_fast.cli.console import print_table
from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.flags import add_flag, flags_also_of, meaning, parse
from compt_fast.config.job import JobSettings
from compt_fast.utils.errors import InputError, exit_code
from compt_fast.utils.names import check_name
from compt_fast.utils.words import plural

if TYPE_CHECKING:
    from compt_fast.prompts.artifact import TrunkId
    from compt_fast.prompts.store import PromptStore, StoredPrompt

EXAMPLES = """examples:
  python -m compt_fast.store add mnli_prompt.pt --task mnli --model t5-base --store prompts
  python -m compt_fast.store add my-peft-adapter --task sst2 --store prompts
  python -m compt_fast.store add runs/glue/prompts/p-k32-s0 --store prompts
      the target prompts of a run, one entry a task (or --task for one of them)
  python -m compt_fast.store add my-export --store prompts
      all that `export --format peft` or `vocabulary` wrote, with all that is known of it
  python -m compt_fast.store combine "mnli-m10 + 0.5*qnli-m10 - sst2-m10" --name nli --store prompts
  python -m compt_fast.train --suite glue --model t5-base --method sil,sip,silp --store prompts

exit codes: 0 done; 1 check found something wrong; 2 wrong input"""


def parser() -> CommandLine:
    """The command line of `store`."""
    made = CommandLine(
        prog="compt-fast store",
        description="Keep trained prompts in a folder, for trainings that start from them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    texts = {
        "list": "one line a prompt",
        "show": "all that is known of a prompt, and which others it is like",
        "add": "take in prompts of a run or an export, a .pt or .safetensors tensor, or a PEFT adapter",
        "combine": "add and subtract prompts, and keep what comes of it as an entry that says of what it was made",
        "remove": "delete prompts",
        "check": "read every prompt and say what is wrong with it",
    }
    for name, text in texts.items():
        own = commands.add_parser(name, help=text, description=text)
        own.add_argument("--store", required=True, type=file_path, metavar="DIR", help="folder of the store")
        if name in ("show", "remove"):
            own.add_argument("names", nargs="+" if name == "remove" else 1, metavar="NAME")
        if name == "add":
            own.add_argument(
                "path", type=file_path, metavar="PATH", help="file, adapter, export or RUN/prompts/<run-id>"
            )
            own.add_argument(
                "--task", help="task that the prompt was trained for (of a run or an export: only this task's)"
            )
            own.add_argument("--name", help="name of the entry (default: <task>-m<tokens>)")
        if name == "combine":
            own.add_argument("formula", metavar="FORMULA", help="NAME or NUMBER*NAME, and more of them after + or -")
            own.add_argument("--name", required=True, help="name of the entry")
            own.add_argument("--task", help="the task that it is for (default: those of the prompts that are added)")
            own.add_argument(
                "--into", type=file_path, metavar="DIR", help="folder of the store that gets it (default: the same)"
            )
        if name in ("add", "combine"):
            own.add_argument("--replace", action="store_true", help="take the place of an entry of that name")
        if name in ("add", "check"):
            for flag in flags_also_of("store"):
                add_flag(own, flag, f"{meaning(flag)} (the trunk that the prompts belong to)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    commands: dict[str, Callable[..., int]] = {
        "list": show_all,
        "show": show,
        "add": add,
        "combine": combine,
        "remove": remove,
        "check": check,
    }
    command = commands[given.pop("command")]

    def work() -> int:
        from compt_fast.prompts.store import PromptStore

        return command(PromptStore(given.pop("store")), Console(markup=False), **given)

    return exit_code(work, out_of_memory_hint=": take --device cpu")


def show_all(store: PromptStore, console: Console) -> int:
    """A table of the entries; a damaged one is named with what is wrong.

    Raises `InputError` where there is no such folder, and for a run folder, whose prompts lie further down.
    """
    if (store.folder / "config.json").is_file():
        raise InputError(
            f"--store {store.folder} is a run folder: its store is {store.folder}/store, if its runs began with stored "
            f"prompts; what it trained is in {store.folder}/prompts"
        )
    if not store.folder.is_dir():
        raise InputError(f"--store {store.folder}: no such folder; `store add` makes one")
    entries, broken = _read_all(store)
    heads = ["name", "task", "trunk", "tokens", "d_model", "encoder", "score", "created"]
    rows = []
    for e in entries:
        score = f"{e.score['value']:.1f} ({e.score['metric']})" if e.score else "-"
        tasks = ", ".join(e.tasks) + (f" (before {', '.join(reversed(e.after))})" if e.after else "")
        named = [e.name, tasks, e.trunk.name]
        rows.append([*named, str(e.length), str(e.d_model), e.encoder or "-", score, (e.created or "-")[:16]])
    if rows:
        print_table(console, heads, rows, turn=False)
    else:
        console.print(f"the store {store.folder} has no prompts", soft_wrap=True)
    for message in broken:
        console.print(f"damaged: {message}", soft_wrap=True)
    return 0


def show(store: PromptStore, console: Console, names: list[str]) -> int:
    """One entry: its manifest, the spread of its values, and its likeness to the others."""
    from compt_fast.prompts.similarity import mean_cosine

    entry = store.load(names[0])
    console.print(json.dumps(store.manifest(entry.name), indent=2), soft_wrap=True)
    console.print(f"standard deviation of its values {entry.values.std():.3g}, largest {entry.values.abs().max():.3g}")
    others = [e for e in _read_all(store)[0] if e.name != entry.name and e.d_model == entry.d_model]
    likeness = [(float(mean_cosine(entry.values[None], e.values[None])), e.name) for e in others]
    for cosine, name in sorted(likeness, reverse=True):
        console.print(f"  mean-token cosine {cosine:6.3f}  {name}")
    return 0


def add(store: PromptStore, console: Console, path: Path, replace: bool, **given: Any) -> int:
    """Take in what stands at `path`; all of it is checked before the first entry is written."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return _add_all(store, console, _described(path, **given) or [_from_file(path, **given)], replace)


def combine(
    store: PromptStore,
    console: Console,
    formula: str,
    name: str,
    task: str | None,
    into: Path | None,
    replace: bool,
) -> int:
    """Keep what a formula of entries comes to."""
    from compt_fast.prompts.arithmetic import combined, terms_of
    from compt_fast.prompts.store import PromptStore

    check_name(name, "a stored prompt")
    if task is not None:
        check_name(task, "a task")
    terms = terms_of(formula, store.names(), str(store.folder))
    made = combined(terms, {term.name: store.load(term.name) for term in terms}, name, task)
    return _add_all(store if into is None else PromptStore(into), console, [made], replace)


def _add_all(store: PromptStore, console: Console, entries: list[StoredPrompt], replace: bool) -> int:
    """Write entries, none before all have a place."""
    taken = [entry.name for entry in entries if entry.name in store.names() and not replace]
    if taken:
        raise InputError(f"the store {store.folder} has {', '.join(taken)} already; take --replace or another --name")
    for entry in entries:
        store.add(entry, replace=replace)
        console.print(f"added {entry.name}: {entry.length} tokens of width {entry.d_model}", soft_wrap=True)
    return 0


def remove(store: PromptStore, console: Console, names: list[str]) -> int:
    """Delete entries."""
    for name in names:
        store.remove(name)
        console.print(f"removed {name}")
    return 0


def check(store: PromptStore, console: Console, model: str | None, dtype: str | None) -> int:
    """Read every entry, and with a `model` see that it belongs to that trunk; 1 if one is wrong."""
    entries, broken = _read_all(store)
    if model is not None:
        trunks = {key: _trunk_id(model, key) for key in {dtype or entry.trunk.dtype for entry in entries}}
        for entry in entries:
            trunk, d_model = trunks[dtype or entry.trunk.dtype]
            try:
                entry.check(trunk, d_model or entry.d_model)
            except InputError as error:
                broken.append(str(error))
    for message in broken:
        console.print(f"wrong: {message}", soft_wrap=True)
    console.print(f"{plural(len(store.names()), 'prompt')}, {len(broken)} with something wrong")
    return 1 if broken else 0


def _read_all(store: PromptStore) -> tuple[list[StoredPrompt], list[str]]:
    """The entries that can be read, and what is wrong with the others."""
    entries, broken = [], []
    for name in store.names():
        try:
            entries.append(store.load(name))
        except InputError as error:
            broken.append(str(error))
    return entries, broken


def _described(
    path: Path, task: str | None, name: str | None, model: str | None, dtype: str | None
) -> list[StoredPrompt]:
    """The prompts of a run or an export, whose manifests say what they are, all or that of `task`; none of a file."""
    from dataclasses import replace

    from compt_fast.prompts.foreign import read_exported
    from compt_fast.runs.initialisation import entries_of
    from compt_fast.utils.errors import unknown

    entries = read_exported(path)
    if not entries and (path / "manifest.json").is_file():
        entries = entries_of(path)
    if not entries:
        return []
    if model is not None or dtype is not None:
        raise InputError(f"{path}: its manifest names the trunk; leave out --{'model' if model else 'dtype'}")
    if task is not None:
        tasks = [entry.task for entry in entries]
        if task not in tasks:
            raise unknown(f"task of {path}", task, tasks)
        entries = [entry for entry in entries if entry.task == task]
    if name is not None and len(entries) > 1:
        raise InputError(f"--name names one prompt, and {path} holds {len(entries)}: give --task too")
    return entries if name is None else [replace(entry, name=name) for entry in entries]


def _from_file(path: Path, task: str | None, name: str | None, model: str | None, dtype: str | None) -> StoredPrompt:
    """A prompt that another program trained."""
    from compt_fast.prompts.foreign import read_foreign
    from compt_fast.prompts.store import StoredPrompt
    from compt_fast.tasks.table import TASKS

    if not task:
        raise InputError(f"{path}: which task was it trained for? Say --task")
    check_name(task, "a task")
    foreign = read_foreign(path)
    model = model or foreign.model
    if model is None:
        raise InputError(f"{path}: which trunk was it trained with? Say --model")
    trunk, d_model = _trunk_id(model, dtype)
    entry = StoredPrompt(
        f"{task}-m{len(foreign.values)}" if name is None else name,
        task,
        trunk,
        foreign.values,
        training=foreign.notes,
        definition=TASKS.get(task),
    )
    entry.check(trunk, d_model or entry.d_model)
    return entry


def _trunk_id(model: str, dtype: str | None) -> tuple[TrunkId, int | None]:
    """Which trunk `model` is, and its d_model; of one on the hub, which is not fetched, only the name."""
    from compt_fast.prompts.artifact import TrunkId
    from compt_fast.runs.job import named_trunk

    own = JobSettings(model=parse("model", model, "--model"), dtype=parse("dtype", dtype or "fp32", "--dtype"))
    if own.model != "mini" and not Path(own.model).is_dir():
        return TrunkId(own.model), None
    trunk = named_trunk(own)
    return TrunkId(trunk.name, trunk.fingerprint(), own.dtype, trunk.family), trunk.d_model


if __name__ == "__main__":
    sys.exit(main())
