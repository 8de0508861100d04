"""The packages of compt_fast and its C++/CUDA extension; all else about the build stands in
pyproject.toml.

The top-level folders kernels/ and csrc/ are installed as `compt_fast.kernels` and `compt_fast/csrc`:
a top-level module called `kernels` would hide a package of that name that transformers looks for,
and the sources go along so that the extension can be built at first use.

The extension is built here only where the interpreter already has a torch, and for that one; a
failure costs nothing but a warning. COMPT_FAST_NATIVE=0 leaves it out.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("compt_fast", "native")
BUILT = ("ops.so", "ops.json")
PIP_ISOLATION = "pip-build-env-"


def own_environment() -> dict[str, str]:
    """The environment in which this interpreter sees the packages that are installed for it: pip
    hides them from a build with folders that it puts on PYTHONPATH.
    """
    environment = dict(os.environ)
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [folder for folder in folders if PIP_ISOLATION not in folder]
    if len(kept) < len(folders):
        environment.pop("PYTHONNOUSERSITE", None)
    environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment


def has_torch() -> bool:
    """Whether this interpreter has a torch of its own; imports it not."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([sys.executable, "-c", code], env=own_environment(), cwd="/", check=False).returncode == 0


class BuildExtension(build_ext):
    """Lets compt_fast/native/build.py do the work, in a process that sees the installed torch."""

    def _folder(self) -> Path:
        return NATIVE if self.inplace else Path(self.build_lib, NATIVE)

    def run(self) -> None:
        command = [sys.executable, "-P", str(NATIVE / "build.py"), "csrc", str(self._folder())]
        if subprocess.run(command, env=own_environment(), check=False).returncode != 0:
            self.warn("the extension was not built, see above; the first use tries again")

    def get_source_files(self) -> list[str]:
        return []  # csrc/ is a package's data

    def get_outputs(self) -> list[str]:
        files = [str(self._folder() / name) for name in BUILT]
        return [] if self.inplace else [file for file in files if Path(file).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


build_now = os.environ.get("COMPT_FAST_NATIVE") != "0" and has_torch()

setup(
    packages=[
        *find_packages(include=["compt_fast", "compt_fast.*"]),
        "compt_fast.csrc",
        "compt_fast.kernels",
    ],
    package_dir={"compt_fast.csrc": "csrc", "compt_fast.kernels": "kernels"},
    # Named so that a wheel with the extension is one for this platform.
    ext_modules=[Extension("compt_fast.native.ops", sources=[])] if build_now else [],
    cmdclass={"build_ext": BuildExtension},
)
