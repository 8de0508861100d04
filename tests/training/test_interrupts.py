"""Signals are noted, and answered at a safe point."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from compt_fast.training.interrupts import SIGNALS, Interrupted, Interrupts, raised_at_once


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


def test_another_thread_hears_no_signals_and_changes_no_handler() -> None:
    before, failed = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        try:
            with Interrupts() as interrupts:
                interrupts.check()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and signal.getsignal(signal.SIGINT) is before


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", SIGNALS)
def test_raised_at_once(number: int) -> None:
    """The first one, wherever it comes; the next one acts as usual, and so do those after the block."""
    before = [signal.getsignal(one) for one in SIGNALS]
    with pytest.raises(Interrupted) as raised, raised_at_once():
        try:
            os.kill(os.getpid(), number)
        finally:
            assert [signal.getsignal(one) for one in SIGNALS] == before
    assert raised.value.signal == number
    with raised_at_once():
        pass
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_raised_at_once_in_another_thread() -> None:
    """Where no signal comes, and none can be asked for."""
    seen = []

    def work() -> None:
        with raised_at_once():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
