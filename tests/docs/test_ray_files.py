"""The files that start a job on a cluster say what the programs in them take."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from compt_fast import train
from tests.helpers.jobs import REPOSITORY

FOLDER = REPOSITORY / "recipes" / "ray"
SCRIPTS = ("slurm.sh", "hosts.sh")


def lines(path: Path) -> str:
    """A script's text, with continued lines in one."""
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash_and_call_train_with_flags_that_it_has(name: str) -> None:
    assert subprocess.run(["bash", "-n", FOLDER / name], check=False).returncode == 0
    calls = re.findall(r"-m compt_fast\.train (.*)", lines(FOLDER / name))
    assert calls
    for call in calls:
        words = ["x" if word.startswith("$") else word for word in shlex.split(call.rstrip("& "))]
        train.parser().parse_args(words[:-1])  # the last is what the user gives
    assert "RAY_AUTH_TOKEN=$(python" in lines(FOLDER / name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_of_ray_are_there(name: str) -> None:
    from ray.scripts.scripts import cli

    for command, rest in re.findall(r"\bray\"? (start|stop)\b([^|&;\n]*)", lines(FOLDER / name)):
        options = {option for parameter in cli.commands[command].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options
    each = re.findall(r"each=\((.*)\)", lines(FOLDER / name))
    assert all(set(re.findall(r"--[a-z-]+", text)) <= {"--num-gpus", "--num-cpus", "--block"} for text in each)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_what_it_needs_a_script_says_so(name: str) -> None:
    done = subprocess.run(["bash", FOLDER / name], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 1 and ("name the run folder" in done.stderr or "name the other hosts" in done.stderr)


def test_the_manifest_is_a_ray_job_whose_trainers_fit_its_workers() -> None:
    job, claim = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "compt_fast.train"]
    line = train.parser().parse_args(words[3:])
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"] == int(line.trainers)
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1" and line.device == "cuda" and line.ray == "auto"
    spec = head["template"]["spec"]
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert line.out.startswith(spec["containers"][0]["volumeMounts"][0]["mountPath"] + "/")
    version = re.search(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None and cluster["rayVersion"] == version[1]
