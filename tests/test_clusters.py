"""cluster.yaml and docs/rayjob.yaml fit what reads them, and what `ray job submit` sends is small and whole."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[1]
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
SECRET = re.compile(r"AKIA|secret_access_key|aws_session_token", re.IGNORECASE)

# KubeRay ships its schema with its operator alone; these are the names in its API reference, of v1.5.1.
FIELDS = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "RayJobSpec": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
        "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
        "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
        "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    },
    "RayClusterSpec": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
        "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
    },
    "AuthOptions": {"mode"},
    "AutoscalerOptions": {
        "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext",
        "upscalingMode", "version", "volumeMounts",
    },
    "HeadGroupSpec": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "WorkerGroupSpec": {
        "groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas",
        "scaleStrategy", "suspend", "template",
    },
}  # fmt: skip


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "rayjob.yaml").read_text())


def check_cluster(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does before it speaks to AWS."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_the_cluster_file_fits_rays_schema(cluster: dict[str, Any]) -> None:
    types = check_cluster(cluster)["available_node_types"]
    assert sum(of_type["max_workers"] for name, of_type in types.items() if name != "head") <= cluster["max_workers"]
    assert types["head"]["resources"]["CPU"] == 0 and "InstanceMarketOptions" not in types["head"]["node_config"]
    for name in ("decoder", "annotator"):
        assert types[name]["min_workers"] == 0 < types[name]["max_workers"]
    assert types["annotator"]["resources"]["GPU"] == 1 and "GPU" not in types["decoder"]["resources"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("worker_nodes_max",), 3),
        (("provider", "region"), 7),
        (("head_node_type",), "nobody"),
        (("available_node_types", "decoder", "resources", "CPU"), 0.5),
        (("available_node_types", "decoder", "min_workers"), 25),
        (("available_node_types", "annotator", "spot"), True),
        (("idle_timeout_minutes",), "ten"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_broken_cluster_file_is_refused(cluster: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    inner = cluster
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check_cluster(cluster)


def test_nodes_use_roles_rather_than_keys_and_show_a_token(cluster: dict[str, Any], rayjob: dict[str, Any]) -> None:
    assert not SECRET.search((ROOT / "cluster.yaml").read_text())
    for of_type in cluster["available_node_types"].values():
        assert of_type["node_config"]["IamInstanceProfile"]["Name"]
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("export RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_file_that_is_mounted_is_there(cluster: dict[str, Any]) -> None:
    files = [path for path in cluster["file_mounts"].values() if not path.startswith("~")]
    assert files and all((ROOT / path).is_file() for path in files)


def test_every_command_is_one_that_bash_and_ray_understand(cluster: dict[str, Any]) -> None:
    starts = []
    for command in (line for name, lines in cluster.items() if name.endswith("_commands") for line in lines):
        subprocess.run(["bash", "-n", "-c", command], check=True)
        starts += re.findall(r"ray start (.*)", command)
    understood = [start.make_context("ray start", shlex.split(arguments)) for arguments in starts]
    assert [context.params["head"] for context in understood] == [True, False]


def test_nodes_install_the_dependencies_with_every_pin_but_torchs(cluster: dict[str, Any], tmp_path: Path) -> None:
    """The setup commands themselves, up to pip."""
    tomllib = pytest.importorskip("tomllib", reason="nodes have Python 3.12; 3.10 has no tomllib")
    (tmp_path / "annomesh").mkdir()
    (tmp_path / "venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / "annomesh" / name).write_bytes((ROOT / name).read_bytes())
    commands = [command for command in cluster["setup_commands"] if "> ~/annomesh/" in command]
    for command in commands:
        subprocess.run(["bash", "-c", command], check=True, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (tmp_path / "annomesh" / "requirements.txt").read_text().splitlines() == wanted
    pinned = re.findall(r"^([\w.-]+)==", (tmp_path / "annomesh" / "gpu.txt").read_text(), re.MULTILINE)
    assert set(pinned) == set(PINS) - {"torch"}
    assert cluster["setup_commands"][-1].endswith(
        "pip install --quiet -c ~/annomesh/gpu.txt -r ~/annomesh/requirements.txt"
    )


def groups(rayjob: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    inside = rayjob["spec"]["rayClusterSpec"]
    yield "HeadGroupSpec", inside["headGroupSpec"]
    yield from (("WorkerGroupSpec", group) for group in inside["workerGroupSpecs"])


def check_rayjob(rayjob: dict[str, Any]) -> None:
    """What KubeRay's schema and its operator ask for. Raises AssertionError."""
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob") and rayjob["metadata"]["name"]
    spec, inside = rayjob["spec"], rayjob["spec"]["rayClusterSpec"]
    parts = [("RayJob", rayjob), ("RayJobSpec", spec), ("RayClusterSpec", inside), *groups(rayjob)]
    parts += [("AuthOptions", inside["authOptions"]), ("AutoscalerOptions", inside["autoscalerOptions"])]
    for kind, part in parts:
        assert set(part) <= FIELDS[kind], f"{kind} has no field {set(part) - FIELDS[kind]}"
    assert inside["enableInTreeAutoscaling"] is True and spec["shutdownAfterJobFinishes"] is True
    assert inside["rayVersion"] == PINS["ray"]
    for _, group in groups(rayjob):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "Kubernetes wants strings"
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never", "the autoscaler replaces pods, and must not find one come back"
        container = pod["containers"][0]  # KubeRay takes the first to be Ray's
        assert container["name"].startswith("ray-") and f"ray{PINS['ray']}-" in container["image"]
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["limits"]) and resources["limits"] == resources["requests"]
        assert container["envFrom"][0]["secretRef"]["name"], "the driver and all workers read the buckets"
    for group in inside["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] > 0


def test_the_rayjob_has_the_fields_that_kuberay_publishes(rayjob: dict[str, Any]) -> None:
    check_rayjob(rayjob)
    assert not SECRET.search(yaml.safe_dump(rayjob))
    limits = {
        group.get("groupName", "head"): group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for _, group in groups(rayjob)
    }
    assert {name for name, of_group in limits.items() if "nvidia.com/gpu" in of_group} == {"annotator"}
    assert set(limits) == {"head", "decoder", "annotator"}
    assert len({group["template"]["spec"]["containers"][0]["image"] for _, group in groups(rayjob)}) == 1


@pytest.mark.parametrize(
    ("found", "put"),
    [
        ("  rayVersion: ", "  rayRelease: "),
        ('rayVersion: "2.60.0"', 'rayVersion: "2.59.0"'),
        ("annomesh:ray2.60.0-py311", "annomesh:ray2.59.0-py311"),
        ("minReplicas: 0", "minReplicas: 9"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("limits: {cpu:", "limits: {cores:"),
        ("name: ray-worker", "name: logger"),
        ("envFrom:", "environment:"),
    ],
)
def test_a_broken_rayjob_is_refused(found: str, put: str) -> None:
    text = (ROOT / "docs" / "rayjob.yaml").read_text()
    assert found in text
    with pytest.raises((AssertionError, KeyError)):
        check_rayjob(yaml.safe_load(text.replace(found, put)))


def test_the_rayjobs_command_is_one_that_annotate_takes(rayjob: dict[str, Any]) -> None:
    from jobs.annotate import Job

    python, job, *arguments = shlex.split(rayjob["spec"]["entrypoint"])
    assert (python, job) == ("python", "jobs/annotate.py")
    settings = tyro.cli(Job, args=arguments)
    assert settings.stage.autoscales and settings.stage.gpus == 1
    most = {group["groupName"]: group["maxReplicas"] for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert settings.stage.actors <= most["annotator"], "the cluster may grow as large as the plan"
    assert all(str(place).startswith("s3://") for place in (settings.samples, settings.annotator, settings.out))


def test_the_operators_page_names_every_setting_and_whether_a_run_may_go_on_with_another() -> None:
    from pipelines.annotate import AnnotateStage
    from pipelines.runs import HOW_WIDE

    page = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)`.*\| (yes|no) \|$", page, re.MULTILINE)
    told = {name.replace("-", "_"): may == "yes" for name, may in rows}
    assert told == {field.name: field.name in HOW_WIDE for field in dataclasses.fields(AnnotateStage)}
    assert set(re.findall(r"--stage\.([a-z-]+)", page)) <= {name.replace("_", "-") for name in told}
    assert all((ROOT / job).is_file() for job in re.findall(r"jobs/\w+\.py", page))


def test_what_a_job_sends_is_small_and_works_without_git(tmp_path: Path) -> None:
    """`ray job submit --working-dir .`, up to the network: Ray takes 100 MiB at most, and sends it to every node."""
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    assert package.stat().st_size < 5e6
    with zipfile.ZipFile(package) as sent:
        assert not {".git", ".venv"} & {Path(name).parts[0] for name in sent.namelist()}
        sent.extractall(tmp_path / "sent")
    told = "from pipelines import runs; print(runs.__file__, runs.code_version()['commit'])"
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": "."}
    for command in (["-c", told], ["jobs/annotate.py", "--help"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path / "sent", capture_output=True, text=True, check=False,
            timeout=300, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if command[0] == "-c":
            assert str(tmp_path) in done.stdout and "sources sha256" in done.stdout


def test_data_and_results_in_the_working_folder_are_not_sent(tmp_path: Path) -> None:
    """What .gitignore names stays here; nothing else is needed to say so to Ray."""
    checkout = tmp_path / "checkout"
    kept = {".gitignore", "jobs/annotate.py"}
    left = {".git/pack", ".venv/lib.so", "demo-coco/f", "labels/a.parquet", "runs/f", "samples/a", "jobs/__pycache__/a"}
    for name in kept | left:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"")
    (checkout / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as sent:
        assert {name for name in sent.namelist() if not name.endswith("/")} == kept
