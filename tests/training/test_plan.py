"""From comma lists to runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compt_fast.config.flags import read_flags
from compt_fast.config.run import RunConfig
from compt_fast.prompts.parameters import PromptBank
from compt_fast.training.plan import Run, bytes_at_once, keep_ids, plan_runs
from compt_fast.utils.errors import InputError

TASKS = ("rte", "cola", "sst2", "mrpc")


def plan(**given: str) -> list[Run]:
    return plan_runs(read_flags(given, None), tasks=TASKS, d_model=8)


def test_comma_lists_multiply_in_their_order() -> None:
    runs = plan(method="spp,pt-joint", shots="8,full", seeds="0,1", sources="2,5")
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
    assert [run.id for run in runs[8:]] == ["pt-joint-k8-s0", "pt-joint-k8-s1", "pt-joint-full-s0", "pt-joint-full-s1"]
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
        method="spp,scp,pt,pt-joint,mst,p,sl,slp,sln,slpn",
        encoder="mlp,linear,none",
        encoder_hidden="4,6",
        steps="5,7",
        seeds="0,1,2",
    )
    assert len({run.id for run in runs}) == len({run.config for run in runs}) == len(runs)
    # Only the MLP has a width: 2 + 1 + 1 encoders.
    assert len(runs) == (8 + 2 * len(TASKS)) * 4 * 2 * 3


def test_the_rate_of_prompts_that_a_method_has_not_makes_no_second_run() -> None:
    runs = plan(method="spp,pt-joint,mst", lr_private="0.1,0.2", lr_router="0.3,0.4")
    assert [run.id.split("-")[0] for run in runs] == ["spp"] * 4 + ["pt"] * 2 + ["mst"]


def test_what_another_flag_makes_void_makes_no_second_run() -> None:
    runs = plan(method="spp", max_train="1000,2000", shots="16,full")
    assert [(run.config.shots, run.config.max_train) for run in runs] == [(16, 5000), (None, 1000), (None, 2000)]
    runs = plan(method="spp", init="vocab,uniform", init_range="0.1,0.2")
    assert [(run.config.init, run.config.init_range) for run in runs] == [
        *(("vocab", 0.5), ("uniform", 0.1), ("uniform", 0.2))
    ]


def test_as_many_sources_as_tasks() -> None:
    assert [(run.id, run.shape.sources) for run in plan(method="sln,slpn,sl")] == [
        ("sln-n4-k16-s0", 4),
        ("slpn-n4-k16-s0", 4),
        ("sl-n1-k16-s0", 1),
    ]


def test_as_many_stored_sources_as_source_tasks() -> None:
    runs = plan(method="sil,spp", source_tasks="a,b,c", source_init="stored")
    assert [(run.id, run.shape.sources) for run in runs] == [("sil-n3-k16-s0", 3), ("spp-n3-k16-s0", 3)]
    assert [run.shape.sources for run in plan(method="sip,sln")] == [4, 4]


def test_which_role_has_encoders() -> None:
    shapes = {run.config.method: run.shape for run in plan(method="p,pi,slp,sil,sip,silp")}
    assert {name: (shape.encoder, shape.encoded) for name, shape in shapes.items()} == {
        "p": ("linear", "both"),
        "pi": ("none", "both"),
        "slp": ("linear", "both"),
        "sil": ("none", "both"),
        "sip": ("linear", "private"),
        "silp": ("linear", "private"),
    }
    assert shapes["sip"] == shapes["silp"], "one cohort"
    (other,) = plan(method="slp", private_init="stored")
    assert (other.shape.encoder, other.shape.encoded) == ("linear", "source")


def apart(names: list[str], **given: str) -> list[Run]:
    settings = replace(read_flags(given, None), apart=True)
    return plan_runs(settings, tasks=names, d_model=8)


def test_the_first_task_of_a_chain_has_encoders_as_the_others() -> None:
    runs = plan(method="progressive", encoder="mlp")
    assert [(run.shape.sources, run.shape.encoded) for run in runs] == [
        *((0, "both"), (1, "private"), (2, "private"), (3, "private"))
    ]


def test_what_the_papers_train_apart_is_a_run_for_each_task() -> None:
    runs = plan(method="pt,spp,pt-joint", seeds="0")
    assert [run.id for run in runs] == [*(f"pt-k16-s0-{task}" for task in TASKS), "spp-n3-k16-s0", "pt-joint-k16-s0"]
    assert [(run.config.task, run.shape.tasks) for run in runs] == [*((t, 1) for t in TASKS), (None, 4), (None, 4)]
    together = plan_runs(replace(read_flags({"method": "pt"}, None), apart=False), tasks=TASKS, d_model=8)
    assert [(run.id, run.config.task) for run in together] == [("pt-k16-s0", None)]


def test_apart_is_a_run_for_each_task() -> None:
    runs = apart(["rte", "cola"], method="p,sln", seeds="0,1")
    assert [run.id for run in runs] == [
        *("p-k16-s0-rte", "p-k16-s0-cola", "p-k16-s1-rte", "p-k16-s1-cola"),
        *("sln-n1-k16-s0-rte", "sln-n1-k16-s0-cola", "sln-n1-k16-s1-rte", "sln-n1-k16-s1-cola"),
    ]
    assert {run.shape.tasks for run in runs} == {1}
    assert [run.config.task for run in runs[:2]] == ["rte", "cola"]


def ids(before: list[Run], after: list[Run]) -> list[str]:
    return [run.id for run in keep_ids(after, {run.id: run.config for run in before})]


def test_a_sweep_that_grows_keeps_its_ids() -> None:
    first = plan(method="spp", lr_private="0.02")
    assert ids(first, first) == ["spp-n3-k16-s0"]
    wider = plan(method="spp", lr_private="0.02,0.05", seeds="0,1")
    assert ids(first, wider) == [
        "spp-n3-k16-s0",
        "spp-n3-k16-s0-lr-private0.05",
        "spp-n3-k16-s1",
        "spp-n3-k16-s1-lr-private0.05",
    ]
    assert ids([], wider) == [run.id for run in wider]
    own = apart(["s0", "b"], method="p")
    assert ids(own, apart(["s0", "b"], method="p", seeds="0,12")) == [
        *("p-k16-s0-s0", "p-k16-s0-b", "p-k16-s12-s0", "p-k16-s12-b")
    ]


def test_ids_stay_distinct_however_a_sweep_grows() -> None:
    steps = [{"seeds": "0"}, {"lr_private": "0.02,0.1"}, {"warmup": "0.2,0.3"}, {"seeds": "0,1,2"}]
    flags: dict[str, str] = {"method": "spp,scp"}
    known: dict[str, RunConfig] = {}
    for step in steps:
        flags |= step
        runs = keep_ids(plan(**flags), known)
        assert len({run.id for run in runs}) == len(runs)
        assert all({run.id: run.config for run in runs}[name] == config for name, config in known.items())
        known = {run.id: run.config for run in runs}


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
        "pt-joint": private,
        "mst": source,
        "p": tasks * (10 * d + linear),
        # CrossPT: (N + T) m d + d^2 + d, and the router.
        "sl": 10 * d + linear + tasks,
        "slp": (1 + tasks) * 10 * d + linear + tasks * 2,
        "sln": tasks * 10 * d + linear + tasks * tasks,
        "slpn": 2 * tasks * 10 * d + linear + tasks * (tasks + 1),
        # What starts from stored values has no encoder.
        "pi": tasks * 10 * d,
        "sil": tasks * 10 * d + tasks * tasks,
        "sip": 2 * tasks * 10 * d + linear + tasks * (tasks + 1),
        "silp": 2 * tasks * 10 * d + linear + tasks * (tasks + 1),
        "mpt-source": 100 * d + tasks * (100 + d),
        "mpt": tasks * (100 * d + 100 + d),
        "mpt-m": 100 * d + tasks * (100 + d),
        "smop": tasks * (4 * 5 * d + 4 * d),
    }
    runs = plan(method=",".join(expected))
    assert {run.config.method: run.parameters * (len(TASKS) if run.config.task else 1) for run in runs} == expected
    for run in runs:
        bank = PromptBank.create(run.shape, [0])
        assert run.parameters == sum(p.numel() for p in bank.params.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "pt-joint,mst", "sources": "3"}, "--sources has no meaning for any of the methods"),
        ({"method": "slp", "gates": "tied"}, "--gates has no meaning"),
        ({"method": "pt-joint,p", "lr_source": "0.1"}, "--lr-source has no meaning"),
        (
            {"method": "spp", "router": "relaxed-bernoulli", "normalisation": "softmax"},
            "method spp: router 'relaxed-bernoulli'",
        ),
        ({"method": "spp", "sources": "0"}, "--sources must be at least 1 for method 'spp'"),
        ({"method": "sil,sip", "sources": "3"}, "--sources has no meaning for any of the methods"),
        ({"method": "spp", "sources": "3", "source_init": "stored"}, "--sources has no meaning with --source-init"),
        ({"method": "sip", "lr_source": "0.1"}, "--lr-source has no meaning"),
        ({"method": "sl", "private_init": "stored"}, "--private-init has no meaning"),
        ({"method": "p", "source_tasks": "a"}, r"--source-tasks has no meaning: none of the methods trained \(p\)"),
        (
            {"method": "pi", "source_tasks": "a"},
            "--source-tasks has no meaning: .* prompts of source tasks",
        ),
        ({"method": "spp,pt", "source_steps": "3"}, "--source-steps has no meaning: .* starts from stored prompts"),
        ({"method": "slp", "fit_length": "first"}, "--fit-length has no meaning"),
    ],
)
def test_values_that_do_not_go_together(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**given)


def test_flags_of_stored_prompts_are_used_where_one_run_starts_from_one() -> None:
    assert len(plan(method="mst,sil", source_tasks="a,b", source_steps="3", fit_length="first")) == 2
    assert plan(method="pt", private_init="spot", source_tasks="a,b")
    assert plan(method="pi", source_steps="3", fit_length="train")


def test_an_odd_trunk_has_no_lstm() -> None:
    with pytest.raises(InputError, match="method spp: .*lstm"):
        plan_runs(read_flags({"method": "spp", "encoder": "lstm"}, None), tasks=TASKS, d_model=9)


def test_baselines_are_runs_without_prompts_that_train_alone() -> None:
    runs = plan(method="lora,spp,adapter-m", sources="2,5", bottleneck="4,8")
    assert [run.id for run in runs if run.alone] == [
        *(f"lora-k16-s0-bottleneck{width}-{task}" for width in (4, 8) for task in TASKS),
        *(f"adapter-m-k16-s0-bottleneck{width}" for width in (4, 8)),
    ]
    for run in runs:
        config = run.config
        assert run.alone == (config.composition == "none") == (run.shape.target_length == 0)
        assert not run.alone or (config.sources, config.encoder, config.prompt_length) == (0, "none", 0)
    assert [run.shape.tasks for run in runs if run.alone] == [1] * 8 + [4] * 2
    (adapter,) = plan_runs(read_flags({"method": "adapter"}, None), tasks=TASKS[:1], d_model=768)
    assert (adapter.config.bottleneck, adapter.config.rate("weights")) == (768 // 32, 3e-4)


def test_memory_is_that_of_the_runs_side_by_side_or_of_one_alone() -> None:
    runs = [replace(run, trains=10_000 if run.alone else 0) for run in plan(method="spp,ia3", sources="1,2")]
    sizes = sorted(12 * run.parameters for run in runs if not run.alone)
    assert bytes_at_once(runs, 2) == max(sum(sizes), 120_000)
    assert bytes_at_once(runs, 1) == max(sizes[-1], 120_000)
    assert bytes_at_once([run for run in runs if not run.alone], 2) == sum(sizes)
    assert bytes_at_once([], 2) == 0
