"""Signals are noted, and answered at a safe point."""

from __future__ import annotations

import os
import signal

import pytest

from compt_fast.fleet.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_check(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            interrupts.check()
    assert caught.value.signal == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_acts_as_usual() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupts.check()
