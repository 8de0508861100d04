"""From comma lists to runs."""

from __future__ import annotations

import pytest

from compt_fast.errors import InputError
from compt_fast.flags import read_flags
from compt_fast.fleet.plan import Run, plan_runs
from compt_fast.prompts.bank import PromptBank


def plan(**given: str) -> list[Run]:
    return plan_runs(read_flags(given, None), tasks=4, d_model=8)


def test_comma_lists_multiply_in_their_order() -> None:
    runs = plan(method="spp,pt", shots="8,full", seeds="0,1", sources="2,5")
    assert [run.id for run in runs[:8]] == [
        "spp-n2-k8-s0",
        "spp-n5-k8-s0",
        "spp-n2-k8-s1",
        "spp-n5-k8-s1",
        "spp-n2-full-s0",
        "spp-n5-full-s0",
        "spp-n2-full-s1",
        "spp-n5-full-s1",
    ]
    # pt has no sources: their number makes no second run of it.
    assert [run.id for run in runs[8:]] == ["pt-k8-s0", "pt-k8-s1", "pt-full-s0", "pt-full-s1"]
    assert [run.config.shots for run in runs[8:]] == [8, 8, None, None]


def test_other_lists_stand_in_the_id_where_they_vary() -> None:
    runs = plan(method="scp,mst", lr_source="0.1,1e-05", gates="fixed,tied", warmup="0.1")
    assert [run.id for run in runs] == [
        "scp-n3-k16-s0-gatesfixed-lr-source0.1",
        "scp-n3-k16-s0-gatesfixed-lr-source1e-05",
        "scp-n3-k16-s0-gatestied-lr-source0.1",
        "scp-n3-k16-s0-gatestied-lr-source1e-05",
        "mst-n1-k16-s0-gatesfixed-lr-source0.1",
        "mst-n1-k16-s0-gatesfixed-lr-source1e-05",
    ]


def test_ids_are_distinct_whatever_varies() -> None:
    runs = plan(
        method="spp,scp,pt,mst,p,sl,slp,sln,slpn",
        encoder="mlp,linear,none",
        encoder_hidden="4,6",
        steps="5,7",
        seeds="0,1,2",
    )
    assert len({run.id for run in runs}) == len({run.config for run in runs}) == len(runs)
    # Only the MLP has a width: 2 + 1 + 1 encoders.
    assert len(runs) == 9 * 4 * 2 * 3


def test_the_rate_of_prompts_that_a_method_has_not_makes_no_second_run() -> None:
    runs = plan(method="spp,pt,mst", lr_private="0.1,0.2", lr_router="0.3,0.4")
    assert [run.id.split("-")[0] for run in runs] == ["spp"] * 4 + ["pt"] * 2 + ["mst"]


def test_as_many_sources_as_tasks() -> None:
    assert [(run.id, run.shape.sources) for run in plan(method="sln,slpn,sl")] == [
        ("sln-n4-k16-s0", 4),
        ("slpn-n4-k16-s0", 4),
        ("sl-n1-k16-s0", 1),
    ]


def test_steps_are_whole_epochs_or_what_was_asked_for() -> None:
    (run,) = plan(method="spp", epochs="3", batch_size="16")
    assert [run.steps(rows) for rows in (16, 17, 64)] == [3, 6, 12]
    (run,) = plan(method="spp", steps="7")
    assert run.steps(1000) == 7


def test_every_presets_parameters_are_counted() -> None:
    tasks, d = 4, 8
    linear, mlp = d * d + d, 2 * (d * d + d)
    private, source = tasks * (5 * d + mlp), 5 * d + mlp
    expected = {
        "spp": 3 * source + private + tasks * 3 + tasks * 2,
        "scp": 3 * source + private + tasks * 3 + tasks * 2,
        "pt": private,
        "mst": source,
        "p": tasks * (10 * d + linear),
        # CrossPT: (N + T) m d + d^2 + d, and the router.
        "sl": 10 * d + linear + tasks,
        "slp": (1 + tasks) * 10 * d + linear + tasks * 2,
        "sln": tasks * 10 * d + linear + tasks * tasks,
        "slpn": 2 * tasks * 10 * d + linear + tasks * (tasks + 1),
    }
    runs = plan(method=",".join(expected))
    assert {run.config.method: run.parameters for run in runs} == expected
    for run in runs:
        bank = PromptBank.create(run.shape, [0])
        assert run.parameters == sum(p.numel() for p in bank.params.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "pt,mst", "sources": "3"}, "--sources has no meaning for any of the methods"),
        ({"method": "slp", "gates": "tied"}, "--gates has no meaning"),
        ({"method": "pt,p", "lr_source": "0.1"}, "--lr-source has no meaning"),
        (
            {"method": "spp", "router": "relaxed-bernoulli", "normalisation": "softmax"},
            "method spp: router 'relaxed-bernoulli'",
        ),
        ({"method": "spp", "sources": "0"}, "--sources must be at least 1 for method 'spp'"),
    ],
)
def test_values_that_do_not_go_together(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**given)


def test_an_odd_trunk_has_no_lstm() -> None:
    with pytest.raises(InputError, match="method spp: .*lstm"):
        plan_runs(read_flags({"method": "spp", "encoder": "lstm"}, None), tasks=4, d_model=9)
