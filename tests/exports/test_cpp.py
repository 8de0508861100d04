"""The example in C++ is built with sanitizers, and answers as the predictor."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compt_fast import native
from compt_fast.exports import EXPORTS
from compt_fast.native import build
from tests.helpers.made_predictors import as_line, as_lines, made_predictor, mini_rows
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import make_t5

Answer = Callable[[Path, str], subprocess.CompletedProcess[str]]
TOOLS = build.tool_path()  # where pip puts cmake and ninja, too
CMAKE = shutil.which("cmake", path=TOOLS)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not native.load(), reason="needs the compiled operators"),
    pytest.mark.skipif(CMAKE is None, reason="needs cmake (pip install cmake)"),
]


@pytest.fixture(scope="module")
def answers(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Runs the example: an address that is wrong, undefined behaviour and memory that is lost end it with 1."""
    folder = tmp_path_factory.mktemp("cpp")
    torch_folder = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    source = ["-S", str(repository / "examples" / "cpp"), "-DSANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    run([str(CMAKE), "-G", "Ninja", "-B", str(folder), *source, torch_folder])
    run([str(CMAKE), "--build", str(folder), "--parallel", "2"])
    options = os.environ | {"ASAN_OPTIONS": "exitcode=1:detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1"}

    def answer(export: Path, lines: str) -> subprocess.CompletedProcess[str]:
        command = [str(folder / "answers"), str(export)]
        return subprocess.run(command, input=lines, capture_output=True, text=True, env=options, check=False)

    return answer


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": TOOLS}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of all embedded tasks."""
    folder = tmp_path_factory.mktemp("export")
    EXPORTS["torchscript"].write(made_predictor(), folder)
    return folder


def test_every_embedded_task_is_answered_as_by_the_predictor(answers: Answer, folder: Path) -> None:
    predictor, rows = made_predictor(), mini_rows(12)
    done = answers(folder, as_lines(predictor, rows))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [as_line(answer) for answer in predictor.predict(rows, scores=True)]


def test_texts_of_all_alphabets_in_the_published_vocabulary(answers: Answer, tmp_path: Path) -> None:
    trunk = make_t5(tmp_path / "trunk", tokenizer=real("t5-tokenizer"))
    predictor = made_predictor(trunk=trunk, names=("mini_rte",))
    export = tmp_path / "export"
    export.mkdir()
    EXPORTS["torchscript"].write(predictor, export)
    texts = [
        "ÀÉ ﬁne – “quoted” ½ Ⅷ",
        "naïve Ångström é",
        "你好 ☃ мир",
        "a\u00a0b\u3000c\u2009d",
        "x" * 400,
        "1,000.50 $",
    ]
    rows = [{"task": "mini_rte", "sentence1": a, "sentence2": b} for a in texts for b in texts]
    done = answers(export, as_lines(predictor, rows))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [as_line(answer) for answer in predictor.predict(rows, scores=True)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("mini_cola\tfine\nmini_colo\tx\n", "error: line 2: unknown task 'mini_colo'"),
        ("mini_rte\tone text\n", "error: line 1: a row of mini_rte has 2 texts, not 1"),
    ],
)
def test_a_line_that_is_wrong_is_named(lines: str, said: str, answers: Answer, folder: Path) -> None:
    done = answers(folder, lines)
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("name", "size"), [("spiece.model", 0), ("spiece.model", 999), ("model.pt", 999)])
def test_a_file_that_is_damaged_is_an_error(
    name: str, size: int, answers: Answer, folder: Path, tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(folder, tmp_path / "export"))
    (spoilt / name).write_bytes((spoilt / name).read_bytes()[:size])
    done = answers(spoilt, "mini_cola\tfine\n")
    assert done.returncode == 2 and done.stderr.startswith("error: ")
