"""Names that may stand in a path."""

from __future__ import annotations

import pytest

from compt_fast.utils.errors import InputError
from compt_fast.utils.names import LONGEST, check_name, is_name


@pytest.mark.parametrize("name", ["a", "spp-n3-k16-s0", "lr-private1e-05", "init-range1e+20", "mini_rte", "prüfung.v2"])
def test_names(name: str) -> None:
    assert is_name(name) and check_name(name, "a run") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../victim", "a/b", "/etc", "a b", ".hidden", "-x", "a\n", "a\0b", "a\\b", None, 3]
)
def test_what_leads_elsewhere_or_is_hidden_is_none(name: object) -> None:
    assert not is_name(name)
    with pytest.raises(InputError, match="is no name of a run: letters, digits and any of"):
        check_name(name, "a run")


def test_names_leave_room_for_what_is_put_to_them_while_they_are_written() -> None:
    assert is_name("a" * LONGEST) and not is_name("a" * (LONGEST + 1)) and not is_name("ä" * LONGEST)
    with pytest.raises(InputError, match="is too long to be the name of a task: its files take at most 240 bytes"):
        check_name("ä" * 121, "a task")
