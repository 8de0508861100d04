"""How an engine is opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast.models.api import open_trunk
from compt_fast.models.checkpoint import UnsupportedCheckpointError
from compt_fast.models.engines import ENGINES
from compt_fast.models.engines.causal import CausalTrunk
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_t5 import make_t5
from tests.helpers.tiny_trunks import make_trunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("trunk"))


@pytest.mark.parametrize("engine", ["auto", "fast", "reference"])
def test_every_engine_opens(engine: str, folder: Path) -> None:
    trunk = open_trunk(engine, str(folder), prompt_position="append")
    assert isinstance(trunk, ReferenceTrunk if engine == "reference" else PackedTrunk)
    assert (trunk.name, trunk.prompt_position, trunk.d_model) == (str(folder), "append", 32)
    assert (trunk.dtype, trunk.device) == (torch.float32, torch.device("cpu"))
    assert trunk.embedding.shape == (384, 32) and not trunk.embedding.requires_grad


def test_a_trunk_says_how_long_its_inputs_may_be(folder: Path, tmp_path: Path) -> None:
    assert open_trunk("auto", str(folder)).max_input_length == 512
    assert open_trunk("auto", str(make_t5(tmp_path, "mt5"))).max_input_length == 1024


def test_auto_finds_the_engine_of_a_family(tmp_path: Path) -> None:
    for family, engine in (("gpt2", CausalTrunk), ("umt5", ReferenceTrunk)):
        trunk = open_trunk("auto", str(make_trunk(tmp_path / family, family)))
        assert type(trunk) is engine and trunk.family == family and trunk.continues == (family == "gpt2")
        assert trunk.max_input_length == (480 if family == "gpt2" else 1024)
    assert sorted(ENGINES) == ["causal", "fast", "reference"]
    for engine, of in (("fast", "T5, T5 v1.1"), ("reference", "encoder-decoder")):
        with pytest.raises(InputError, match=f"'gpt2' is not supported; this engine runs a {of}.*--engine auto"):
            open_trunk(engine, str(tmp_path / "gpt2"))
    with pytest.raises(InputError, match="'umt5' is not supported; this engine runs a causal language model"):
        open_trunk("causal", str(tmp_path / "umt5"))


def test_auto_leaves_to_the_reference_what_fast_does_not_know(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "trunk"))
    config = json.loads((other / "config.json").read_text()) | {"feed_forward_proj": "silu"}
    (other / "config.json").write_text(json.dumps(config))
    assert isinstance(open_trunk("auto", str(other)), ReferenceTrunk)
    with pytest.raises(InputError, match="not 'silu'; use --engine reference"):
        open_trunk("fast", str(other))


def test_an_unknown_engine_is_refused_with_the_near_one(folder: Path) -> None:
    with pytest.raises(InputError, match="engine 'referense'.*'reference'"):
        open_trunk("referense", str(folder))


def test_an_unknown_prompt_position_is_refused_with_the_near_one(folder: Path) -> None:
    with pytest.raises(InputError, match="prompt position 'prepent'.*'prepend'"):
        open_trunk("reference", str(folder), prompt_position="prepent")


def test_a_dtype_the_trunk_does_not_compute_in_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="fp32 or bf16, not in torch.float16"):
        open_trunk("reference", str(folder), dtype=torch.float16)


def test_a_gpu_that_is_not_there_is_refused(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda"):
        open_trunk("reference", str(folder), device="cuda")


def test_a_new_engine_is_asked_after_those_that_are_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another family, which takes no T5."""

    class Elsewhere:
        @classmethod
        def load(cls, name_or_dir: str, **how: Any) -> Elsewhere:
            if name_or_dir == str(other):
                return cls()
            raise UnsupportedCheckpointError("no T5 here")

    other = folder.parent / "vit"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(
        InputError, match="model_type 'vit' is not supported; a trunk is a T5, T5 v1.1.*or a causal language model"
    ):
        open_trunk("auto", str(other))
    monkeypatch.setitem(ENGINES, "elsewhere", Elsewhere)
    assert isinstance(open_trunk("auto", str(folder)), PackedTrunk)
    assert isinstance(open_trunk("auto", str(other)), Elsewhere)
    assert isinstance(open_trunk("elsewhere", str(other)), Elsewhere)
    with pytest.raises(InputError, match="no T5 here"):
        open_trunk("elsewhere", str(folder))


def test_engines_are_listed_without_torch() -> None:
    code = (
        "import sys; from compt_fast.config.choices import ENGINE_NAMES as names;"
        "assert 'torch' not in sys.modules; print(*names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["auto", *ENGINES]
