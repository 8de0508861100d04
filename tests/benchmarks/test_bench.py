"""What a GPU's memory cannot hold is left out of the benchmarks, and of their tables."""

from __future__ import annotations

from benchmarks import bench_trunk, table


def test_transformers_in_fp32_is_left_out_where_its_padded_rows_do_not_fit() -> None:
    assert bench_trunk.EXACT not in bench_trunk.compared("t5-base", 27)
    for size, runs in (("mini", 27), ("t5-small", 27), ("t5-base", 1), ("t5-base", 9)):
        assert bench_trunk.EXACT in bench_trunk.compared(size, runs)


def test_a_table_shows_what_was_measured() -> None:
    seconds = {"fast bf16": 1.0, "fast fp32": 2.0, "transformers bf16": 6.0, "replayed bf16": 0.5}
    head, eager, replayed = table.steps({"training_step[t5-base-27]": {"seconds": seconds}})
    assert eager[2:] == ["1.00 s", "2.00 s", "6.00 s", "-", "**6.00**", "-"]
    assert replayed[2:] == ["500.0 ms", "2.00 s", "6.00 s", "-", "**12.00**", "-"]
    assert len(head) == len(eager) == len(replayed)
