"""Addresses, and what is said of those that cannot be had."""

from __future__ import annotations

import pytest

from compt_fast.serving.server import bound, is_local, url_of
from compt_fast.utils.errors import InputError


def test_a_port_that_is_taken_is_named() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert url_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=f"--port {port}: another process listens there"):
            bound("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_a_host_that_is_not_this_machine_is_named(host: str) -> None:
    with pytest.raises(InputError, match=f"--host {host}.*no address of this machine"):
        bound(host, 0)


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_who_reaches_an_address(host: str, local: bool) -> None:
    with bound(host, 0) as listening:
        assert is_local(listening) is local
