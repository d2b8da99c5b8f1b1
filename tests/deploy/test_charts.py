"""The Helm charts: valid for every version of Kubernetes that they claim, and by the rules that every pod keeps."""

import re
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.charts import (
    CASES,
    CHARTS,
    NAMES,
    ROOT,
    Manifest,
    chart,
    containers,
    faults,
    helm,
    matches,
    merged,
    of_kind,
    render,
    rendered,
    validator,
    values_of,
    versions,
    workloads,
)

USERS = {"nginx": 10002}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return rendered(*request.param)


@pytest.mark.parametrize("version", versions())
def test_every_version_of_kubernetes_takes_every_manifest(manifests: tuple[Manifest, ...], version: str) -> None:
    assert [fault for each in manifests for fault in faults(each, version)] == []


def test_several_versions_are_tried_and_the_oldest_is_the_one_that_the_charts_claim() -> None:
    assert len(versions()) >= 6
    for name in NAMES:
        assert chart(name).metadata["kubeVersion"] == f">={versions()[0]}.0-0"


def test_a_misspelt_field_is_found() -> None:
    """The check itself: strict, in fields of a pod and in the kinds of other projects."""
    for kind, path in (("Deployment", ("spec", "template", "spec")), ("ScaledObject", ("spec", "triggers", 0))):
        (manifest, *_) = of_kind(render("undersong-platform", file="full"), kind)
        assert faults(manifest, versions()[-1]) == []
        at: Any = manifest
        for step in path:
            at = at[step]
        at["contaners"] = []
        assert any("contaners" in fault for fault in faults(manifest, versions()[-1]))


@pytest.mark.parametrize(("name", "file"), CASES)
def test_helm_lints_it(name: str, file: str) -> None:
    found = helm.lint(CHARTS / name, values_of(name, file), strict=True)
    assert found["errors"] == []
    assert {each["error"] for each in found["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("name", NAMES)
def test_a_package_is_whole(name: str, tmp_path: Path) -> None:
    """Links are files in it, and its version is the project's."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart(name).version, chart(name).metadata["appVersion"]) == (version, version)
    packed = Path(helm.package(CHARTS / name, destination=tmp_path))
    with tarfile.open(packed) as archive:
        names = archive.getnames()
        assert not any(member.issym() or member.islnk() for member in archive)
    assert f"{name}/templates/_undersong.tpl" in names
    with helm.Chart.load_archive(packed.read_bytes()) as loaded:
        texts = loaded.render(values_of(name, "full"), name="demo", namespace="ns")
    assert texts == chart(name).render(values_of(name, "full"), name="demo", namespace="ns")


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("undersong-platform", {"image": {"tag": "latest"}}, "tag"),
    ("undersong-platform", {"edge": {"image": "nginx:latest"}}, "image"),
    ("undersong-platform", {"edge": {"image": "nginx"}}, "image"),
    ("undersong-platform", {"urls": {"coordinator": "http://fl.example.org"}}, "coordinator"),
    ("undersong-platform", {"urls": {"coordinator": "https://fl.example.org/"}}, "coordinator"),
    ("undersong-platform", {"aggregator": {"settings": {"share_update": 3}}}, "share_update"),
    ("undersong-platform", {"aggregator": {"settings": {"database_url": "x"}}}, "database_url"),
    ("undersong-platform", {"agregator": {}}, "agregator"),
    ("undersong-platform", {"autoscaling": {"keda": True}}, "prometheusUrl"),
    ("undersong-platform", {"peers": {"keys": {"to": []}}}, "to"),
    ("undersong-platform", {"resources": {"api": {"limits": {"memory": None}}}}, "memory"),
    ("undersong-keys", {"network": {"helperClients": []}}, "helperClients"),
    ("undersong-keys", {"keys": {"worker": {"replicas": 2}}}, "worker"),
    ("undersong-agent", {"settings": {"runner": "docker"}}, "runner"),
    ("undersong-agent", {"policy": None}, "policy"),
]


@pytest.mark.parametrize(("name", "more", "word"), BAD)
def test_values_that_cannot_be_meant_are_refused(name: str, more: dict[str, Any], word: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        chart(name).render(merged(values_of(name, "minimal"), more), name="demo", namespace="ns")
    assert word in str(caught.value)


def test_nothing_is_installed_by_the_defaults_alone() -> None:
    for name in NAMES:
        with pytest.raises(helm.HelmValuesError):
            chart(name).render({}, name="demo", namespace="ns")


def test_pods_have_no_rights_that_they_do_not_use(manifests: tuple[Manifest, ...]) -> None:
    assert workloads(manifests)
    for each in workloads(manifests):
        spec = each["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "or COORDINATOR_API_PORT and its like pass for misspelt settings"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        own = spec["securityContext"]
        user = USERS.get(spec["containers"][0]["name"], 10001)
        assert (own["runAsNonRoot"], own["runAsUser"], own["fsGroup"]) == (True, user, user)
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in containers(each):
            limits = container["securityContext"]
            assert limits["allowPrivilegeEscalation"] is False
            assert limits["readOnlyRootFilesystem"] is True
            assert limits["capabilities"] == {"drop": ["ALL"]}


def test_containers_have_limits_and_images_of_one_version(manifests: tuple[Manifest, ...]) -> None:
    for each in workloads(manifests):
        for container in containers(each):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), container["name"]
            image = container["image"]
            assert re.fullmatch(r"[a-z0-9./:-]*[a-z-]+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})", image), image
            assert not image.endswith(":latest")


def test_what_listens_is_probed_and_nothing_else(manifests: tuple[Manifest, ...]) -> None:
    for each in of_kind(manifests, "Deployment"):
        for container in containers(each):
            probes = {"startupProbe", "livenessProbe", "readinessProbe"}
            assert probes & set(container) == (probes if "ports" in container else set()), container["name"]
            names = {port["name"] for port in container.get("ports", ())}
            for probe in probes & set(container):
                how = container[probe].get("httpGet") or container[probe]["tcpSocket"]
                assert how["port"] in names
            assert all(len(name) <= 15 for name in names)


def test_every_deployment_has_one_disruption_budget(manifests: tuple[Manifest, ...]) -> None:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    for each in of_kind(manifests, "Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        found = [b for b in budgets if matches(b["spec"]["selector"], labels)]
        assert [budget["spec"]["maxUnavailable"] for budget in found] == [1]
    assert len(budgets) == len(of_kind(manifests, "Deployment"))


def test_names_meet(manifests: tuple[Manifest, ...]) -> None:
    """Each selector, claim and file of settings that is named is there, and no two objects share a name."""
    names = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    assert len(names) == len(manifests)
    pods = {}
    for each in workloads(manifests):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert matches(each["spec"].get("selector", {}), labels)
        pods[each["metadata"]["name"]] = labels
        for volume in each["spec"]["template"]["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume and volume["name"] != "data":
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
            if "configMap" in volume and volume["configMap"]["name"] != "signed-policy":
                assert ("ConfigMap", volume["configMap"]["name"]) in names
    for each in of_kind(manifests, "Service"):
        assert sum(matches({"matchLabels": each["spec"]["selector"]}, labels) for labels in pods.values()) == 1
    for each in of_kind(manifests, "PodMonitor"):
        assert any(matches(each["spec"]["selector"], labels) for labels in pods.values())


def test_one_thing_decides_how_many_processes_there_are(manifests: tuple[Manifest, ...]) -> None:
    scaled = [
        each["spec"]["scaleTargetRef"]["name"] for each in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled))
    for each in of_kind(manifests, "Deployment"):
        assert ("replicas" in each["spec"]) != (each["metadata"]["name"] in scaled), each["metadata"]["name"]


def test_a_service_that_writes_marks_is_one_process_at_a_time() -> None:
    """The keys service, the helper and the agent: two at once would each miss what the other gave out."""
    for name in ("undersong-keys", "undersong-agent"):
        for each in of_kind(rendered(name, "minimal"), "Deployment"):
            volumes = {volume["name"] for volume in each["spec"]["template"]["spec"]["volumes"]}
            if "marks" in volumes:
                assert (each["spec"]["replicas"], each["spec"]["strategy"]["type"]) == (1, "Recreate")
            else:
                assert each["metadata"]["name"] == "edge"
    (claim,) = [
        each
        for each in of_kind(rendered("undersong-keys", "full"), "PersistentVolumeClaim")
        if each["metadata"]["name"] == "keys-marks"
    ]
    assert claim["spec"]["storageClassName"] == "local"


@pytest.mark.parametrize("name", ["undersong-platform", "undersong-keys"])
def test_installing_both_is_warned_of(name: str) -> None:
    notes = chart(name).render(values_of(name, "minimal"), name="demo", namespace="ns")[f"{name}/templates/NOTES.txt"]
    assert "two trust domains" in notes
    assert "holds both" in notes


def test_the_schemas_of_other_projects_are_schemas() -> None:
    for kind in ("ScaledObject", "PodMonitor", "PrometheusRule"):
        made = validator(versions()[-1], kind, "")
        made.check_schema(made.schema)
