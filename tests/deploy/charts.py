"""The Helm charts, rendered by Helm's own engine and checked against what Kubernetes accepts; no cluster is needed."""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
helm.disable_logging()

ROOT: Final = Path(__file__).parents[2]
CHARTS: Final = ROOT / "deploy" / "helm"
NAMES: Final = ("undersong-platform", "undersong-keys", "undersong-agent")
CASES: Final = [(name, file.stem) for name in NAMES for file in sorted((CHARTS / name / "ci").glob("*.yaml"))]
"""Every chart with every file of its folder `ci`."""
OLDEST: Final = (1, 31)
OWN_SCHEMAS: Final = Path(__file__).parent / "schemas"
_SCHEMAS: Final = resources.files("kubernetes_validate") / "kubernetes-json-schema"

Manifest = dict[str, Any]


@cache
def chart(name: str) -> Any:
    return helm.Chart.load(CHARTS / name)


def values_of(name: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHARTS / name / "ci" / f"{file}.yaml").read_text())
    return found


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as Helm merges a second file over a first."""
    result = copy.deepcopy(dict(base))
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def render(name: str, more: Mapping[str, Any] | None = None, *, file: str = "minimal") -> list[Manifest]:
    """Return what `helm install` would send, from a file of the folder `ci` and more values over it."""
    values = merged(values_of(name, file), more or {})
    texts = chart(name).render(values, name="demo", namespace="ns")
    return [
        document
        for path, text in texts.items()
        if path.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if document
    ]


@cache
def rendered(name: str, file: str) -> tuple[Manifest, ...]:
    """Return the same, once; not to be changed."""
    return tuple(render(name, file=file))


def versions() -> list[str]:
    """Return the versions of Kubernetes whose schemas are here, from the oldest that the charts claim to run on."""
    found = {match[1] for each in _SCHEMAS.iterdir() if (match := re.fullmatch(r"v(\d+\.\d+)\.\d+-local", each.name))}
    numbers = sorted(tuple(map(int, each.split("."))) for each in found)
    return [".".join(map(str, number)) for number in numbers if number >= OLDEST]


@cache
def _registry(version: str) -> tuple[Any, Registry[Any]]:
    folder = _SCHEMAS / f"v{version}.0-local-strict"
    return folder, Resource.from_contents(json.loads((folder / "_definitions.json").read_text())) @ Registry()


@cache
def validator(version: str, kind: str, api: str) -> Draft202012Validator:
    """Return the strict schema of a kind: unknown fields are refused. Of other projects' kinds, ours from their pages.

    `kubernetes_validate.validate` reads all definitions again for each manifest, which takes forty times as long.
    """
    own = OWN_SCHEMAS / f"{kind}.json"
    if own.is_file():
        return Draft202012Validator(json.loads(own.read_text()))
    folder, registry = _registry(version)
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)
    return Draft202012Validator(json.loads((folder / f"{kind.lower()}-{group}.json").read_text()), registry=registry)


def faults(manifest: Manifest, version: str) -> list[str]:
    """Return what that version of Kubernetes would refuse."""
    found = validator(version, manifest["kind"], manifest["apiVersion"]).iter_errors(manifest)
    return [f"{manifest['kind']} {manifest['metadata']['name']}: {each.json_path}: {each.message}" for each in found]


def of_kind(manifests: tuple[Manifest, ...] | list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] in kinds]


def workloads(manifests: tuple[Manifest, ...] | list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def containers(workload: Manifest) -> Iterator[Manifest]:
    spec = workload["spec"]["template"]["spec"]
    yield from (*spec.get("initContainers", ()), *spec["containers"])


def component(labelled: Manifest) -> str:
    name: str = labelled["metadata"]["labels"]["app.kubernetes.io/component"]
    return name


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels, with both of its forms, selects an object."""
    for wanted in selector.get("matchExpressions", ()):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
