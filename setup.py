"""The packages of compt_fast; everything else about the build stands in pyproject.toml.

The top-level folder kernels/ is installed as `compt_fast.kernels`: a top-level module called
`kernels` would hide a package of that name that transformers looks for.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["compt_fast", "compt_fast.*"]),
        "compt_fast.kernels",
    ],
    package_dir={"compt_fast.kernels": "kernels"},
)
