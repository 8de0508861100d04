"""Settings stand once: flags, files, checks and help texts derive from the fields, and no other list is there."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from compt_fast.config.budget import BUDGET
from compt_fast.config.fields import DECIMAL, FOLDER, PLACE, SHOTS, SWITCH, TRUNK, WHOLE, WORD, Flag, Range, up_to
from compt_fast.config.flags import FLAGS, add_flags, flags_also_of, meaning
from compt_fast.config.job import JOB_FLAGS, JobSettings, Sweep
from compt_fast.config.presets import CHAIN, PER_TASK, PRESETS
from compt_fast.config.run import RUN_FLAGS, RunConfig
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import check_type

TYPES = {WORD: "str", WHOLE: "int", DECIMAL: "float", SWITCH: "bool"}
TYPES |= {SHOTS: "int", PLACE: "str", FOLDER: "str", TRUNK: "str", BUDGET: "str"}
WITHOUT_FLAG = {"composition", "private", "task", "sweep"}  # of the preset, of the plan, and what holds the others
# Tables by names of settings that say what no field can: what a report calls them, what a captured step can do,
# what files of a former format hold.
OTHER_TABLES = {"analysis/contrasts.py", "analysis/about_choices.py", "training/graphs.py", "prompts/former.py"}


def test_every_field_is_a_flag_that_says_all() -> None:
    for settings, flags in ((RunConfig, RUN_FLAGS), (JobSettings, JOB_FLAGS)):
        own = [field for field in fields(settings) if field.name not in WITHOUT_FLAG]
        assert [flag.field for flag in flags.values()] == [field.name for field in own]
        for field, (key, flag) in zip(own, flags.items(), strict=True):
            hint = str(field.type).removesuffix(" | None")
            assert flag.help and hint == (f"list[{TYPES[flag.kind]}]" if flag.listed else TYPES[flag.kind])
            assert flag.key == key and flag.name == field.metadata["flag"].name or key == field.name
            assert (flag.help, flag.choices) == (field.metadata["flag"].help, field.metadata["flag"].choices)
    assert list(FLAGS) == [*RUN_FLAGS, *JOB_FLAGS]


def test_the_command_line_is_made_of_the_flags() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    actions = {action.dest: action for action in parser._actions}
    assert list(actions) == list(FLAGS)
    for key, flag in FLAGS.items():
        assert actions[key].option_strings[0] == f"--{flag.name}" and actions[key].default is None
        assert str(actions[key].help).startswith(meaning(flag))
        assert isinstance(actions[key], argparse.BooleanOptionalAction) == flag.switch


def test_what_a_flag_names_is_there() -> None:
    shape = {field.name for field in fields(PromptShape)}
    for flag in RUN_FLAGS.values():
        assert not flag.shape or flag.shape in shape - {flag.field}
        assert not flag.excludes or flag.excludes in RUN_FLAGS
    assert {flag.key for flag in flags_also_of("store")} == {"model", "dtype"}
    assert not flags_also_of("train")


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_values_are_such_as_their_flags_take(name: str) -> None:
    hints = get_type_hints(RunConfig)
    by_field = {flag.field: flag for flag in RUN_FLAGS.values()}
    for field, value in PRESETS[name].settings.items():
        if (field, value) in (("sources", PER_TASK), ("source_init", CHAIN)):
            continue  # a preset's alone
        check_type(value, hints[field], field)
        by_field[field].check(value)
        assert not by_field[field].choices or value in by_field[field].choices


@pytest.mark.parametrize(
    ("ranges", "value", "says"),
    [
        ((up_to(1000), Range("must be above 0, not {}", above=0)), 1001, "is a number from 0 to 1,000, not 1,001"),
        ((up_to(1000), Range("must be above 0, not {}", above=0)), -1, "is a number from 0 to 1,000, not -1"),
        ((up_to(1000), Range("must be above 0, not {}", above=0)), 0, "must be above 0, not 0"),
        ((Range("is a share, not {}", least=0, most=1),), 1.5, "is a share, not 1.5"),
    ],
)
def test_the_first_range_that_a_number_is_outside_of_says_so(ranges: Any, value: float, says: str) -> None:
    flag = Flag("help", ranges=ranges, name="some-number")
    flag.check(1)
    flag.check("full")
    flag.check(None)
    with pytest.raises(InputError, match=f"^--some-number {says}$"):
        flag.check(value)


def test_a_sweep_is_every_combination_of_its_values() -> None:
    sweep = Sweep.of(method=["spp", "pt"], seed=[0, 1], epochs=[3], weight_decay=None)
    assert [(choice["method"], choice["seed"]) for choice in sweep.choices()] == [
        *(("spp", 0), ("spp", 1), ("pt", 0), ("pt", 1))
    ]
    first = next(sweep.choices())
    assert (first["epochs"], first["shots"], first["weight_decay"], first["sources"]) == (3, 16, None, None)
    assert "weight_decay" not in sweep.values


def names_of_settings() -> set[str]:
    return {name for flag in FLAGS.values() for name in (flag.name, flag.key, flag.field)}


def lists(tree: ast.Module) -> Iterator[tuple[int, set[Any]]]:
    """The line of each list, tuple and set of a module, and of each table that is a constant of it, and the literals
    that are its elements or keys. A table within a function is a record, whose values are its own.
    """
    constants = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    for node in ast.walk(tree):
        parts: Sequence[ast.expr | None] = ()
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            parts = node.elts
        elif isinstance(node, ast.Dict) and node in constants:
            parts = node.keys
        if parts and isinstance(node, ast.expr):
            yield node.lineno, {part.value for part in parts if isinstance(part, ast.Constant)}


def sources(repository: Path) -> Iterator[tuple[str, ast.Module]]:
    package = repository / "compt_fast"
    for path in sorted(package.rglob("*.py")):
        if path.parent != package / "config":
            yield path.relative_to(package).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_other_list_of_settings_is_there(repository: Path) -> None:
    known = names_of_settings()
    found = []
    for name, tree in sources(repository):
        for line, literals in lists(tree):
            settings = sorted(known & literals)
            if len(settings) > 2 and name not in OTHER_TABLES:
                found.append(f"{name}:{line}: {settings}")
    assert not found


def test_settings_are_read_by_attribute(repository: Path) -> None:
    """A text in brackets is checked by nobody: `settings.eval_size`, and not `settings["eval_size"]`."""
    found = []
    for name, tree in sources(repository):
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                of = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if of in ("flags", "settings") and node.slice.value in FLAGS:
                    found.append(f"{name}:{node.lineno}")
    assert found == []
