"""A short soak, and that it notices what it is for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tools.soak_serve import Soak, Timeline, judge, run, same


@pytest.mark.slow
def test_a_server_bears_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(0.15) == 0, capfd.readouterr().out
    said = capfd.readouterr().out
    counts = {what: int(count.replace(",", "")) for count, what in re.findall(r"(\d[\d,]*) ([a-z0-9 ]+)", said)}
    assert "no breach" in said
    for what in ("rows compared", "bad bodies", "vanished", "tasks changed"):
        assert counts[what] > 0, said


def test_what_may_have_been_served() -> None:
    timeline = Timeline([(0.0, 0.0, "a"), (10.0, 11.0, ""), (20.0, 21.0, "b")])
    for began, ended, expected in (
        (1, 9, {"a"}),
        (1, 10.5, {"a", ""}),
        (10.5, 10.6, {"a", ""}),
        (11.5, 19, {""}),
        (12, 20.5, {"", "b"}),
        (5, 30, {"a", "", "b"}),
        (22, 30, {"b"}),
    ):
        assert timeline.served(began, ended) == expected


def test_breaches_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(tmp_path, 2)
    answer = soak.expected["a", 0, True]
    assert answer.scores is not None
    found = {"task": answer.task, "label": answer.label, "text": answer.text, "scores": answer.scores}
    assert same(found, answer)
    assert not same(found, replace(answer, text=answer.text + "x"))
    assert not same(found, replace(answer, scores={name: share + 0.01 for name, share in answer.scores.items()}))
    flat = [(minute / 10, 500.0) for minute in range(40)]
    assert judge(soak, flat, 143, "", 4.0) == 0
    for samples, code, said in (
        ([(at, 500 + 3 * at) for at, _ in flat], 143, ""),
        (flat, 0, ""),
        (flat, 143, "Traceback (most recent call last)"),
    ):
        soak.breaches.clear()
        assert judge(soak, samples, code, said, 4.0) == 1
    soak.breaches.clear()
    soak.port = 1  # where nobody listens
    assert soak.ask("GET", "/v1/tasks", None) is None
    assert judge(soak, flat, 143, "", 4.0) == 1 and "no answer" in capsys.readouterr().out
