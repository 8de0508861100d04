"""Where a result was made: what it says of this machine and of machines made up here."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch

from compt_fast.utils import environment


def test_environment_names_the_installed_versions_and_survives_json() -> None:
    found = json.loads(json.dumps(environment.environment(), allow_nan=False))
    assert found["packages"]["torch"] == importlib.metadata.version("torch") == torch.__version__
    assert found["packages"]["transformers"] == importlib.metadata.version("transformers")
    assert found["cuda"] == torch.version.cuda
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]["cores"] >= 1


def test_versions_of_what_is_not_installed_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package-of-ours"))
    assert environment.versions() == {"torch": torch.__version__, "no-such-package-of-ours": None}


def test_cpu_reads_processor_and_memory_of_linux(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = {
        "/proc/cpuinfo": "model name\t: Chip 9\nflags\t\t: sse avx512_bf16 amx_bf16 avx512_vnni\n",
        "/proc/meminfo": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n",
    }
    for file, text in proc.items():
        (tmp_path / file.rsplit("/", 1)[1]).write_text(text, encoding="utf-8")
    monkeypatch.setattr(environment, "Path", lambda file: tmp_path / file.rsplit("/", 1)[1])
    found = environment.cpu()
    assert (found["name"], found["bf16"], found["int8"]) == ("Chip 9", "amx_bf16", "avx512_vnni")
    assert (found["memory_gib"], found["free_gib"]) == (16.0, 8.0)


def test_cpu_without_proc_says_what_it_does_not_know(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "Path", lambda file: tmp_path / "nothing")
    found = environment.cpu()
    assert found["memory_gib"] is None and found["bf16"] is found["int8"] is None
    assert found["name"] and found["cores"] >= 1
