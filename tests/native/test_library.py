"""Finding, building and refusing libraries; what is said where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compt_fast.native import build, library

WANTED: dict[str, Any] = {
    "torch": "2.13.0",
    "cxx11_abi": True,
    "cuda": None,
    "sources": "abc",
    "cpu": ["avx2", "avx512f", "fma"],
    "debug": False,
}


def put(folder: Path, **facts: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / build.LIBRARY).write_bytes(b"")
    (folder / build.FACTS).write_text(json.dumps(WANTED | facts), encoding="utf-8")
    return folder


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a new process on a machine where nothing was built; the cache's root."""
    monkeypatch.setattr(library, "_decided", None)
    monkeypatch.setattr(library, "_quiet", False)
    monkeypatch.setattr(library, "HERE", tmp_path / "installed")
    monkeypatch.setattr(library, "sources", lambda: tmp_path)
    monkeypatch.setattr(build, "facts", lambda sources: WANTED)
    monkeypatch.setattr(library, "_already_here", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPT_FAST_NATIVE", raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"torch": "2.11.0"}, "it was built for torch 2.11.0, and this is 2.13.0"),
        ({"cxx11_abi": False}, "it was built for cxx11_abi False"),
        ({"sources": "old"}, "it was built for sources old"),
        ({"debug": True}, "it was built for debug True"),
        ({"cpu": ["amx_bf16", "fma"]}, "it uses instructions that this processor lacks: amx_bf16"),
        ({"new": 1}, "there is no whole library"),
    ],
)
def test_a_library_for_something_else_is_not_used(tmp_path: Path, facts: dict[str, Any], reason: str) -> None:
    assert library.misfit(put(tmp_path), WANTED) is None
    assert str(library.misfit(put(tmp_path, **facts), WANTED)).startswith(reason)


def test_a_library_for_fewer_instructions_or_with_unneeded_cuda_is_used(tmp_path: Path) -> None:
    assert library.misfit(put(tmp_path, cpu=["fma"], cuda="13.0"), WANTED) is None
    with_nvcc = WANTED | {"cuda": "13.0"}
    assert "without CUDA" in str(library.misfit(put(tmp_path), with_nvcc))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_broken_description_counts_as_no_library(tmp_path: Path, text: str) -> None:
    (put(tmp_path) / build.FACTS).write_text(text, encoding="utf-8")
    assert library.misfit(tmp_path, WANTED) is not None
    (put(tmp_path) / build.LIBRARY).unlink()
    assert library.misfit(tmp_path, WANTED) is not None


def test_the_cache_differs_with_every_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {build.cache_folder(WANTED | {name: "another"}) for name in WANTED}
    assert len(folders | {build.cache_folder(WANTED)}) == len(WANTED) + 1
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_the_facts_are_of_this_torch_and_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text("1", encoding="utf-8")
    first = build.facts(tmp_path)
    assert first["torch"] == torch.__version__
    assert (first["cuda"] is None) or first["cuda"] == torch.version.cuda
    assert json.loads(json.dumps(first)) == first
    (tmp_path / "b.h").write_text("", encoding="utf-8")
    second = build.facts(tmp_path)
    assert second["sources"] != first["sources"]
    (tmp_path / "a.cpp").write_text("2", encoding="utf-8")
    assert build.facts(tmp_path)["sources"] not in (first["sources"], second["sources"])


def test_turned_off_it_does_nothing_and_warns_of_nothing(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPT_FAST_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.load()
    assert library.status() == library.TURNED_OFF
    assert not alone.exists()


def test_status_builds_nothing_and_says_that_it_could(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "missing_tool", lambda: None)
    assert not library.status().active and "not built yet" in library.status().why
    assert library.status().pending
    monkeypatch.setattr(build, "missing_tool", lambda: "there is no ninja")
    assert "there is no ninja" in library.status().why and not library.status().pending
    assert not alone.exists()


def test_without_a_compiler_one_warning_says_so(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match=r"plain PyTorch.*no C\+\+ compiler \(no-such-compiler\)"):
        assert not library.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.load()


def test_no_warning_where_the_caller_tells(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    library.keep_quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.load()
    library.keep_quiet(False)
    monkeypatch.setattr(library, "_decided", None)
    with pytest.warns(RuntimeWarning, match="no-such-compiler"):
        library.load()


def test_a_build_that_fails_is_told_with_the_compilers_words(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "build.py"
    broken.write_text("print('undeclared identifier'); raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setattr(build, "__file__", str(broken))
    monkeypatch.setattr(build, "missing_tool", lambda: None)
    with pytest.warns(RuntimeWarning, match="undeclared identifier"):
        assert not library.load()
    assert "building failed" in library.status().why
    assert list(alone.rglob("build.log"))


def test_a_library_that_does_not_load_is_told(alone: Path, tmp_path: Path) -> None:
    put(tmp_path / "installed")
    with pytest.warns(RuntimeWarning, match="does not load"):
        assert not library.load()


def test_a_cache_that_cannot_be_written_is_told(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone.write_text("a file where a folder should be", encoding="utf-8")
    monkeypatch.setattr(build, "missing_tool", lambda: None)
    with pytest.warns(RuntimeWarning, match="the cache cannot be written"):
        assert not library.load()


def test_a_library_built_for_the_same_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the sources of an editable installation, in the cache, or where it is to go."""
    compiled: list[Path] = []

    def compile_into(folder: Path, sources: Path, cuda: str | None) -> None:
        compiled.append(folder)
        (folder / build.LIBRARY).write_text("compiled")

    monkeypatch.setattr(build, "facts", lambda sources: WANTED)
    monkeypatch.setattr(build, "compile_into", compile_into)
    monkeypatch.setattr(build, "__file__", str(tmp_path / "beside" / "build.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = build.cache_folder(WANTED)
    for number, folder in enumerate((tmp_path / "beside", kept, tmp_path / "out-2")):
        put(folder)
        (folder / build.LIBRARY).write_text(folder.name)
        out = tmp_path / f"out-{number}"
        build.build(tmp_path, out)
        assert not compiled and (out / build.LIBRARY).read_text() == folder.name
        assert library.misfit(out, WANTED) is None
        put(folder, sources="older")
    build.build(tmp_path, tmp_path / "out-3")
    assert len(compiled) == 1 and (tmp_path / "out-3" / build.LIBRARY).read_text() == "compiled"
    assert library.misfit(tmp_path / "out-3", WANTED) is None
    assert sorted(path.name for path in (tmp_path / "out-3").iterdir()) == [build.FACTS, build.LIBRARY]


CACHE = ("compt_fast", "compt_fast/native", "{kept}", "{kept}/ops.so", "{kept}/ops.json")


@pytest.mark.parametrize("name", CACHE)
@pytest.mark.parametrize("how", ["writable by others", "another user's", "a link"])
def test_a_cache_that_another_user_can_have_filled_is_not_loaded(
    how: str, name: str, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = build.cache_folder(WANTED)
    library._make_private(kept)
    put(kept)
    for path in kept.iterdir():
        path.chmod(0o644)
    monkeypatch.setattr(library, "_load_from", lambda folder: library.Status(True, f"loaded from {folder}"))
    assert build.planted(kept) is None and library.load()
    monkeypatch.setattr(library, "_decided", None)
    path = alone / name.format(kept=kept.relative_to(alone))
    if how == "writable by others":
        path.chmod(path.stat().st_mode | 0o020)
    elif how == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        lstat = os.lstat

        def foreign(asked: Any, **named: Any) -> Any:
            return SimpleNamespace(st_mode=0o40700, st_uid=4711) if asked == path else lstat(asked, **named)

        monkeypatch.setattr(library.os, "lstat", foreign)
    with pytest.warns(RuntimeWarning, match=f"plain PyTorch is slower: the cache is not used: .*{path}"):
        assert not library.load()


def test_the_cache_is_made_for_this_user_alone_whatever_the_umask(alone: Path) -> None:
    before = os.umask(0)
    try:
        library._make_private(build.cache_folder(WANTED))
    finally:
        os.umask(before)
    made = [path for path in (alone, *alone.rglob("*"))]
    assert len(made) == 4 and all(path.stat().st_mode & 0o777 == 0o700 for path in made)


def test_a_link_in_the_place_of_the_lock_is_not_followed(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = build.cache_folder(WANTED)
    library._make_private(kept)
    (kept / "lock").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(build, "missing_tool", lambda: None)
    with pytest.warns(RuntimeWarning, match="the cache cannot be written"):
        assert not library.load()
    assert not (tmp_path / "victim").exists()


BUILD_STUB = """
import sys, time
from pathlib import Path
out = Path(sys.argv[2])
count = out / "count"
count.write_text(count.read_text() + "x" if count.exists() else "x")
time.sleep(1)
(out / "ops.so").write_bytes(Path(sys.argv[1], "ops.so").read_bytes())
(out / "ops.json").write_text(Path(sys.argv[1], "ops.json").read_text())
"""


@pytest.mark.slow
def test_two_processes_build_once_and_the_third_finds_it(tmp_path: Path, repository: Path) -> None:
    """With a stand-in for the compiler that copies the library in use."""
    assert library.load()
    folder = library.status().path
    assert folder is not None
    stub = tmp_path / "build.py"
    stub.write_text(BUILD_STUB, encoding="utf-8")
    code = (
        "import sys, json; from pathlib import Path; from compt_fast.native import build, library\n"
        f"facts = json.loads(Path({str(folder.parent / build.FACTS)!r}).read_text())\n"
        f"build.facts = lambda sources: facts; library.HERE = Path({str(tmp_path)!r})\n"
        f"library.sources = lambda: Path({str(folder.parent)!r}); build.__file__ = {str(stub)!r}\n"
        f"build.cache_folder = lambda wanted: Path({str(tmp_path / 'compt_fast' / 'cache')!r})\n"
        "assert library.load(), library.status().why\n"
        "print(library.status().path)"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    both.append(subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True))
    said = [process.communicate()[0].strip() for process in both]
    assert said == [str(tmp_path / "compt_fast" / "cache" / build.LIBRARY)] * 3
    assert (tmp_path / "compt_fast" / "cache" / "count").read_text() == "x"


def test_jobs_are_bounded_by_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the memory that a process may have, the pages of cached files included."""
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(build, "MEMINFO", tmp_path / "meminfo")
    assert build.jobs() == 64  # a system that does not tell
    (tmp_path / "meminfo").write_text(f"MemFree: 1 kB\nMemAvailable: {8 * 2**20} kB\n", encoding="utf-8")
    assert build.jobs() == 8 // build.GIB_A_JOB
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: {0})
    assert build.jobs() == 1


def test_a_toolkit_without_its_headers_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n", encoding="utf-8")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.cuda_home() != tmp_path
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert build.cuda_home() == tmp_path


def test_no_cuda_is_built_for_a_torch_without_it_or_another_major(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert build.cuda_to_build_for() is None
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n", encoding="utf-8")
    nvcc.chmod(0o755)
    monkeypatch.setattr(build, "cuda_home", lambda: tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.1")
    assert build.cuda_to_build_for() == "13.1"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert build.cuda_to_build_for() is None


def test_the_library_knows_whether_it_has_its_cuda_half() -> None:
    if not library.load() or library.status().path is None:
        pytest.skip("no library of its own is loaded here")
    assert library.has_cuda() == ("CPU and CUDA" in library.status().why)
