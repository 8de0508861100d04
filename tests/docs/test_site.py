"""The site builds with every warning an error, and what a code host reads beside it is well-formed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import compt_fast

FORMS = (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml")
OTHERS = ("mkdocs.yml", ".pre-commit-config.yaml", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml")


class Loader(yaml.SafeLoader):
    """YAML whose tags are MkDocs' own, as `!ENV`."""


Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_sequence(node))


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "how-it-works/index.html"):
        assert '<pre class="mermaid">' in (tmp_path / page).read_text(encoding="utf-8")
    tasks = (tmp_path / "reference" / "tasks" / "index.html").read_text(encoding="utf-8")
    assert 'id="compt_fast.tasks.chosen.resolve_tasks"' in tasks
    assert not list(tmp_path.rglob("*.py"))


def test_readme_is_a_front_page(repository: Path) -> None:
    assert len((repository / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize("name", OTHERS)
def test_settings_of_other_programs_are_yaml(repository: Path, name: str) -> None:
    assert isinstance(read(repository / name), dict)


@pytest.mark.parametrize("name", FORMS)
def test_issue_forms_have_what_a_form_needs(repository: Path, name: str) -> None:
    form = read(repository / name)
    assert form["name"] and form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["attributes"]["label"] for part in form["body"])


def test_the_workflow_runs_what_has_to_pass(repository: Path) -> None:
    jobs = read(repository / ".github" / "workflows" / "ci.yml")["jobs"]
    assert {"run": ".ci/run"} in jobs["test"]["steps"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert {"run": "python -m build"} in jobs["build"]["steps"]


def test_the_citation_is_of_this_version(repository: Path) -> None:
    citation = read(repository / "CITATION.cff")
    assert citation["version"] == compt_fast.__version__
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    assert [paper["url"][-10:] for paper in citation["references"]] == ["2408.13227", "2509.14253"]
