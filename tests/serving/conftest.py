"""What answers offline, and a server of the same prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compt_fast.prediction.predictor import Predictor, load
from tests.helpers.serving import Running, make_prompts, running


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of artifacts: of all embedded tasks, and of some of them alone."""
    root = tmp_path_factory.mktemp("artifacts")
    make_prompts(root / "mini")
    make_prompts(root / "other", ["mini_rte", "mini_sst2"], seed=1)
    return root


@pytest.fixture(scope="session")
def offline(artifacts: Path) -> Predictor:
    return load(artifacts / "mini")


@pytest.fixture(scope="session")
def server(offline: Predictor, artifacts: Path) -> Iterator[Running]:
    """A server that tests share: none changes what it serves."""
    with running(offline, root=artifacts) as found:
        yield found
