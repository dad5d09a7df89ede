"""The overlays of infra/deploy/kubernetes as kubectl builds them; no cluster is asked."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest
from files import DEPLOY, OVERLAYS, PORTS, built, containers, mappings

from infra.cluster.objects import wanted_bytes


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kinds_of_kubernetes_fit_their_schemas(overlay):
    ours = [one for one in built(overlay) if one["apiVersion"].startswith("ray.io/")]
    for resource in built(overlay):
        if resource not in ours:
            kubernetes_validate.validate(resource, "1.34", strict=True)
    assert len(ours) == 1


# Names of ray.io/v1 in KubeRay 1.7, as far as these files use them. They passed its own schemas when this was written.
CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    "gcsFaultToleranceOptions", "upgradeStrategy", "suspend", "managedBy", "headServiceAnnotations",
}  # fmt: skip
JOB = {
    "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds",
    "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "runtimeEnvYAML", "jobId", "metadata", "suspend",
}  # fmt: skip
GROUP = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "numOfHosts",
    "idleTimeoutSeconds",
    "rayStartParams",
    "template",
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_fields_of_kuberay_are_those_it_has(overlay):
    (resource,) = (one for one in built(overlay) if one["apiVersion"] == "ray.io/v1")
    cluster = resource["spec"]
    if resource["kind"] == "RayJob":
        assert cluster.keys() <= JOB
        assert cluster["shutdownAfterJobFinishes"]  # a TTL needs it
        cluster = cluster["rayClusterSpec"]
    assert cluster.keys() <= CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"].keys() <= {"rayStartParams", "template"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_as_nobody_in_particular(overlay):
    for resource in built(overlay):
        for pod in mappings(resource):
            if "containers" in pod:
                assert pod["securityContext"]["runAsNonRoot"], resource["metadata"]["name"]
                assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(resource):
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert re.fullmatch(r"clipline-\w+:[\d.]+", container["image"])
            assert {"requests", "limits"} <= container["resources"].keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shared_memory_is_what_ray_wants(overlay):
    found = 0
    for pod in (one for resource in built(overlay) for one in mappings(resource) if "containers" in one):
        sizes = {one["name"]: one["emptyDir"]["sizeLimit"] for one in pod.get("volumes", ()) if "emptyDir" in one}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", ()):
                if mount["mountPath"] == "/dev/shm":
                    found += 1
                    assert gib(sizes[mount["name"]]) >= wanted_bytes(gib(container["resources"]["limits"]["memory"]))
    assert found >= 2


def gib(size: str) -> int:
    return int(size.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_referred_to_is_there(overlay):
    resources = built(overlay)
    there = {(one["kind"], one["metadata"]["name"]) for one in resources}
    clusters = {one["metadata"]["name"] for one in resources if one["kind"] == "RayCluster"}
    by_hand = {"clipline-s3", "clipline-mlflow"}
    made = {
        title for title in re.findall(r"secret generic (\S+)", (DEPLOY / "kubernetes/base/settings.yaml").read_text())
    }
    assert made == by_hand
    for mapping in (one for resource in resources for one in mappings(resource)):
        if "configMapRef" in mapping:
            assert ("ConfigMap", mapping["configMapRef"]["name"]) in there
        if "serviceAccountName" in mapping:
            assert ("ServiceAccount", mapping["serviceAccountName"]) in there
        for secret in (mapping.get("secretKeyRef", {}).get("name"), mapping.get("secretName")):
            assert secret is None or secret in by_hand | clusters
        mounts = {mount["name"] for one in mapping.get("containers", ()) for mount in one.get("volumeMounts", ())}
        assert mounts <= {volume["name"] for volume in mapping.get("volumes", ())}
    assert all(one["metadata"].get("namespace", "clipline") == "clipline" for one in resources)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_reaches_the_jobs_of_ray_but_who_is_named(overlay):
    """Ray's jobs API runs what it is sent; without a policy every pod of the cluster could."""
    policies = {one["metadata"]["name"]: one["spec"] for one in built(overlay) if one["kind"] == "NetworkPolicy"}
    assert policies["refuse-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    label = {"app.kubernetes.io/part-of": "clipline"}
    assert policies["ray"]["podSelector"]["matchLabels"] == label
    nodes, others = policies["ray"]["ingress"]
    assert nodes == {"from": [{"podSelector": {"matchLabels": label}}]}
    assert [port["port"] for port in others["ports"]] == [PORTS["dashboard"]]
    assert all("podSelector" in source for source in others["from"])
    (web,) = (rule["to"][0]["ipBlock"] for rule in policies["ray"]["egress"] if "ipBlock" in rule["to"][0])
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(web["except"])
    pods = [mapping for one in built(overlay) if one["apiVersion"] == "ray.io/v1" for mapping in mappings(one)]
    templates = [pod for pod in pods if "containers" in pod.get("spec", {})]
    assert templates
    assert all(pod["metadata"]["labels"] == label for pod in templates)
