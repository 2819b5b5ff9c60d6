"""The manifest of a run on Kubernetes has what KubeRay asks of a RayJob, and what a run asks of its nodes."""

from __future__ import annotations

import importlib
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.ray


def manifest() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")  # it has no types of its own
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "cluster" / "rayjob.yaml").read_text())
    return found


def pods() -> list[dict[str, Any]]:
    cluster = manifest()["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_it_is_a_ray_job() -> None:
    found = manifest()
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    assert found["metadata"]["name"]
    assert found["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    for group in found["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "rayStartParams" in group
    assert "rayStartParams" in found["spec"]["rayClusterSpec"]["headGroupSpec"]


def test_all_nodes_have_the_same_image_and_mount_what_the_run_is_kept_on() -> None:
    command = shlex.split(manifest()["spec"]["entrypoint"])
    assert command[:2] == ["incr", "run"]
    out = Path(command[command.index("--out") + 1])
    images = set()
    for pod in pods():
        [container] = pod["containers"]
        images.add(container["image"])
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
        [name] = [mounted[root] for root in mounted if out.is_relative_to(root)]
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == name]
        assert volume["persistentVolumeClaim"]["claimName"]
    assert len(images) == 1
