"""Messages about values that are not known."""

from __future__ import annotations

import sys

import pytest

from compt_fast.utils.errors import InputError, exit_code, shown, unknown


def test_the_near_miss_is_named() -> None:
    error = unknown("task", "mini_ret", ["mini_rte", "mini_cola"])
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    assert str(error) == ("unknown task 'mini_ret'. Did you mean 'mini_rte'? Known: mini_rte, mini_cola.")


def test_without_a_near_miss_all_are_listed() -> None:
    assert str(unknown("suite", "xyz", ["glue", "set2"])) == ("unknown suite 'xyz'. Known: glue, set2.")


def test_a_word_that_is_sought_may_be_long() -> None:
    message = str(unknown("suite", "glue" * 100_000, ["glue"]))
    assert message.startswith("unknown suite 'glueglue") and "(400,002 characters)" in message and len(message) < 200


def test_a_value_is_shown_in_bounds() -> None:
    assert shown([1, "a"]) == "[1, 'a']"
    assert shown("a" * 200) == "'" + "a" * 49 + "..." + "a" * 24 + "' (202 characters)"


def test_what_a_disk_refuses_is_said_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise PermissionError(13, "Permission denied", "runs/a")

    assert exit_code(work) == 2
    assert capsys.readouterr().err == "error: runs/a: Permission denied\n"

    def bug() -> int:
        raise OSError("no file is named")

    with pytest.raises(OSError, match="no file is named"):
        exit_code(bug)


def test_a_package_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert exit_code(work) == 2
    assert capsys.readouterr().err.startswith(f"error: torch is not installed for {sys.executable}: activate")


def test_a_module_of_ours_that_is_missing_is_a_bug() -> None:
    def work() -> int:
        raise ModuleNotFoundError("No module named 'compt_fast.gone'", name="compt_fast.gone")

    with pytest.raises(ModuleNotFoundError):
        exit_code(work)
