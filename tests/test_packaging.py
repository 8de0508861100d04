"""What an installation holds: wheel, editable install, console script, dependencies."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

import compt_fast

SOURCES = ("compt_fast", "csrc", "kernels", "pyproject.toml", "setup.py", "README.md", "LICENSE")

BUILT = ("ops.so", "ops.json")
"""The extension and what it was built for, in compt_fast/native."""


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    """Run a command outside the repository; its output, and on failure all it said."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(environment: Path, *arguments: str | Path) -> None:
    """Install into `environment` what needs no download and no build environment."""
    pip = [sys.executable, "-m", "pip", "--python", environment, "--disable-pip-version-check"]
    offline = ["install", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, *offline, *arguments], environment)


@pytest.fixture(scope="module")
def sources(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that a build reads, so that no build leaves anything in the repository."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", *BUILT))
        else:
            shutil.copy2(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built where importing torch fails: then the extension is left to the first use."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "torch.py").write_text("raise ImportError('the build imports torch')\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "wheel", *offline, "-w", folder, sources], folder, PYTHONPATH=str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that sees this one's dependencies, and not this one's compt_fast."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    here = sysconfig.get_path("purelib")
    assert not (Path(here) / "compt_fast").exists(), "compt_fast is installed, and not editable"
    # A folder that a .pth file names comes last, and its own .pth files (editable) are not read.
    (own / "dependencies.pth").write_text(here + "\n")
    return folder


def files_below(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(folder.parent).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_weights_and_the_script(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (entry_points,) = (name for name in held if name.endswith(".dist-info/entry_points.txt"))
        assert "compt-fast = compt_fast.cli.main:main" in archive.read(entry_points).decode()
    expected = files_below(repository / "compt_fast", "*.py", "py.typed")
    expected |= {f"compt_fast/{name}" for name in files_below(repository / "kernels", "*.py")}
    expected |= {f"compt_fast/{name}" for name in files_below(repository / "csrc", "*")}
    weights = repository / "compt_fast" / "mini" / "weights"
    expected |= {f"compt_fast/mini/weights/{path.name}" for path in weights.iterdir()}
    assert any(name.endswith(".safetensors") for name in expected)
    expected |= {"compt_fast/analysis/page.html", "compt_fast/serving/page.html"}
    metadata = {name for name in held if ".dist-info/" in name}
    assert held - metadata == expected
    assert any(name.endswith("LICENSE") for name in metadata)


@pytest.mark.slow
def test_the_wheel_runs_installed(wheel: Path, environment: Path, tmp_path: Path) -> None:
    pip_install(environment, wheel)
    script = environment / "bin" / "compt-fast"
    facts = json.loads(run([script, "info", "--json"], tmp_path))
    assert facts["compt_fast"] == compt_fast.__version__
    code = "import compt_fast.kernels as k, compt_fast.mini as m; print(k.__file__, m.__file__)"
    for file in run([environment / "bin" / "python", "-c", code], tmp_path).split():
        assert Path(file).is_relative_to(environment), f"{file} is not the installed one"
    assert "usage: compt-fast train" in run([script, "train", "--help"], tmp_path)


@pytest.mark.slow
def test_uv_installs_it_and_runs_its_commands(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `uv sync` and `uv run` do, but with the dependencies that are there already: no test downloads a torch."""
    copy = tmp_path / "sources"
    shutil.copytree(sources, copy)
    (tmp_path / "torch.py").write_text("raise ImportError('the extension is left to the first use')\n")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    uv = [find_uv_bin(), "--offline", "--quiet"]
    run([*uv, "venv", "--python", sys.executable], copy)
    (own,) = copy.glob(".venv/lib/python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    offline = ["--no-deps", "--no-build-isolation", "--editable", "."]
    run([*uv, "pip", "install", *offline], copy, PYTHONPATH=str(tmp_path))
    facts = json.loads(run([*uv, "run", "--no-sync", "python", "-m", "compt_fast.info", "--json"], copy))
    assert facts["compt_fast"] == compt_fast.__version__
    code = "import compt_fast, compt_fast.kernels as k; print(compt_fast.__file__, k.__file__)"
    for file in run([*uv, "run", "--no-sync", "python", "-c", code], copy).split():
        assert Path(file).is_relative_to(copy)


@pytest.mark.slow
def test_an_install_builds_the_extension_for_the_torch_that_is_there(
    sources: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the build itself sees none, as in pip's build isolation; no other torch is asked for."""
    copy, isolation = tmp_path / "sources", tmp_path / "pip-build-env-1"
    shutil.copytree(sources, copy)
    isolation.mkdir()
    (isolation / "torch.py").write_text("raise ImportError('the build imports torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(isolation))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no library is taken over from there
    pip_install(environment, "--editable", copy)
    native = copy / "compt_fast" / "native"
    built = (native / "ops.so").stat().st_mtime_ns
    pip_install(environment, "--editable", copy)
    assert (native / "ops.so").stat().st_mtime_ns == built, "compiled a second time"
    monkeypatch.delenv("PYTHONPATH")
    assert sorted(path.name for path in native.glob("ops.*")) == sorted(BUILT)
    code = "from compt_fast import native; print(native.load(), native.status().path)"
    said = run([environment / "bin" / "python", "-c", code], tmp_path, XDG_CACHE_HOME="/dev/null")
    assert said.split() == ["True", str(native / "ops.so")]
    facts = json.loads((native / "ops.json").read_text(encoding="utf-8"))
    assert facts["torch"] == importlib.metadata.version("torch")


@pytest.mark.slow
def test_an_editable_install_reads_kernels_where_it_stands(
    sources: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPT_FAST_NATIVE", "0")
    pip_install(environment, "--editable", sources)
    code = "import compt_fast.kernels as k, compt_fast.cli.main as c; print(k.__file__, c.__file__)"
    for folder in (tmp_path, sources):
        kernels, cli = run([environment / "bin" / "python", "-c", code], folder).split()
        assert Path(kernels) == sources / "kernels" / "__init__.py"
        assert Path(cli) == sources / "compt_fast" / "cli" / "main.py"


@pytest.mark.slow
def test_every_module_imports_without_triton_and_datasets(repository: Path) -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules['triton'] = sys.modules['datasets'] = None\n"
        "import compt_fast, torch\n"
        "names = [m.name for m in pkgutil.walk_packages(compt_fast.__path__, 'compt_fast.')]\n"
        "# the extension's library, which torch loads, and device code, which is imported to start a kernel\n"
        "names.remove('compt_fast.native.ops') if 'compt_fast.native.ops' in names else None\n"
        "names = [name for name in names if not name.startswith('compt_fast.kernels.')]\n"
        "names += ['compt_fast.kernels.adamw', 'compt_fast.kernels.launching', 'compt_fast.kernels.plan']\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "assert not torch.cuda.is_initialized(), 'a module made a CUDA context at import'\n"
        "print(*names)"
    )
    imported = set(run([sys.executable, "-c", code], repository).split())
    assert {"compt_fast.train", "compt_fast.mini.rows", "compt_fast.models.engines.reference"} <= imported


def test_the_build_asks_for_no_torch_and_the_package_for_no_exact_one(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    assert not any("torch" in name for name in project["build-system"]["requires"])
    dependencies = project["project"]["dependencies"]
    assert "torch>=2.11" in dependencies
    assert not [name for name in dependencies if "==" in name or "<" in name]


def normalised(requirement: str) -> str:
    """A requirement's name as registries compare names."""
    return re.split(r"[\[=<>]", requirement)[0].lower().replace("_", "-")


def test_constraints_are_exact_and_cover_what_the_project_names(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(pin.count("==") == 1 for pin in pins), pins
    pinned = [normalised(pin) for pin in pins]
    assert pinned == sorted(set(pinned))
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = project["dependencies"] + [name for extra in extras.values() for name in extra]
    assert {normalised(name) for name in named} <= set(pinned)


def test_make_and_ci_do_what_they_say(repository: Path) -> None:
    dry = ["make", "--no-print-directory", "--dry-run", "--always-make", "VENV=/nowhere/venv"]
    train = run([*dry, "train", "ARGS=--seeds 0,1"], repository).splitlines()
    assert train[-1] == "/nowhere/venv/bin/python -m compt_fast.train --seeds 0,1"
    torch_first = [line for line in train if " install " in line]
    assert torch_first[1].endswith(" torch") and "--no-build-isolation" in torch_first[2]
    tests = run(
        [*dry, "test", "ARGS=", "PARALLEL=-n 2"], repository
    ).splitlines()  # whatever this run of make was given
    commands = [line.partition(" -m ")[2].strip() for line in tests[-3:]]
    assert commands == ["ruff check .", "mypy", "pytest -n 2"]
    without_venv = run([*dry[:-1], "train", "VENV="], repository)
    assert "--no-deps --no-build-isolation --editable" in without_venv
    assert "constraints.txt torch" not in without_venv
    assert os.access(repository / ".ci" / "run", os.X_OK)
