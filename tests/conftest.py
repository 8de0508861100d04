"""What every test runs under: one thread, no network, and the real rows where there are some."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch and transformers are imported; subprocesses of tests inherit them. The models here
# are so small that a second thread costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# On a GPU torch refuses products in deterministic mode, which some tests switch on, without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

# Without a GPU, Triton's interpreter runs the kernels; it has to be chosen before Triton's first import.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """In CI a skip that the machine does not force fails the run.

    What a dependency is about to take away is mended before it goes, and so its warning is an error; but of versions
    that nobody has tried yet, a new warning says nothing about this code.
    """
    from tests.helpers import skips
    from tests.helpers.versions import untried

    config.pluginmanager.register(skips)
    if not untried(REPOSITORY / "constraints.txt"):
        for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
            config.addinivalue_line("filterwarnings", f"error::{category}")


def pytest_report_header() -> str:
    """Which warnings are errors."""
    from tests.helpers.versions import untried

    other = untried(REPOSITORY / "constraints.txt")
    return f"deprecations are no errors: {', '.join(other)} untried" if other else "deprecations are errors"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, with the reason, where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # among the keywords is also the name of the folder
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def hub_root() -> Path | None:
    """A folder of real rows in the hub's layout, or None.

    Tests that get None use rows in the same schemas that they write themselves.
    """
    from tests.helpers.shared import real

    return real("hub")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a tiny T5 with random weights."""
    from tests.helpers.tiny_t5 import make_t5

    return make_t5(tmp_path_factory.mktemp("tiny_t5"))


@pytest.fixture(scope="session")
def line(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """A command line of `train` for two small tasks and a folder: `line(out, seeds="0,1")`.

    Flags can be replaced, added, or left out with None.
    """
    from tests.helpers import jobs

    folder = tmp_path_factory.mktemp("tasks")
    files = [jobs.toy_task(folder, "toy_a"), jobs.toy_task(folder, "toy_b")]

    def made(out: Path, **changes: Any) -> list[str]:
        return jobs.arguments(jobs.settings(tiny_t5, files, **changes), out)

    return made


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of three small tasks: two of classes, one of a score."""
    from tests.helpers.jobs import toy_task

    folder = tmp_path_factory.mktemp("toys")
    return [
        toy_task(folder, "toy_a"),
        toy_task(folder, "toy_b"),
        toy_task(folder, "toy_c", score=True),
    ]


@pytest.fixture
def hangup() -> Iterator[None]:
    """SIGHUP acts within a test, also where the tests were begun by nohup, under which it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
