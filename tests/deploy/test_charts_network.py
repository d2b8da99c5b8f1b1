"""The charts' network policies allow the arrows of docs/architecture.md and no other."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.deploy.charts import CASES, ROOT, Manifest, component, matches, of_kind, rendered, values_of, workloads

PORTS = {"coordinator": 7001, "aggregator": 7002, "keys": 7003, "registry": 7004, "helper": 7005}
SERVICES = {
    "undersong-platform": ("coordinator", "aggregator", "registry"),
    "undersong-keys": ("keys", "helper"),
    "undersong-agent": (),
}
POSTGRES, REDIS, DNS, METRICS = 5432, 6379, 53, 9100
ALL = [case for case in CASES if case[0] != "undersong-agent"]


def documented() -> dict[str, set[str]]:
    """Return what each part calls, from the column `needs` of the table of parts."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \|[^|]*\|[^|]*\| ([^|]*) \|$", page.partition("## Folders")[0], re.MULTILINE)
    found = {name: {word for word in re.findall(r"\w+", needs) if word in PORTS} for name, needs in rows}
    found["agent"] = {"coordinator", "aggregator", "keys", "registry"}
    assert ("agent", "the four services") in rows
    return {name: found[name] for name in (*PORTS, "agent")}


def test_the_table_is_read() -> None:
    arrows = documented()
    assert arrows["keys"] == set()
    assert arrows["aggregator"] == {"keys", "registry", "helper"}
    assert arrows["helper"] == {"keys"}


def processes(service: str, manifests: Iterable[Manifest]) -> set[str]:
    """Return the components of a service that serve and work."""
    names = {component(each) for each in of_kind(list(manifests), "Deployment")}
    return names & {f"{service}-api", f"{service}-worker", f"keys-{service}"}


def policies(manifests: Iterable[Manifest], labels: dict[str, str], direction: str) -> Iterator[Any]:
    """Yield the rules of the policies that select a pod."""
    selecting = [
        each["spec"]
        for each in of_kind(list(manifests), "NetworkPolicy")
        if direction in each["spec"]["policyTypes"] and matches(each["spec"]["podSelector"], labels)
    ]
    assert selecting, "a pod that no policy selects may talk to all"
    for spec in selecting:
        yield from spec.get(direction.lower(), ())


def allowed(rules: Iterable[Any], side: str, labels: dict[str, str], port: int) -> bool:
    """Whether one of the rules allows the port with a pod of these labels in the same namespace."""
    for rule in rules:
        if port not in [each["port"] for each in rule["ports"]]:
            continue
        if side not in rule:
            continue  # every source: examined apart
        own = [peer for peer in rule[side] if "namespaceSelector" not in peer and "podSelector" in peer]
        if any(matches(peer["podSelector"], labels) for peer in own):
            return True
    return False


def arrows(manifests: tuple[Manifest, ...]) -> set[tuple[str, str, int]]:
    """Return who reaches whom on which port, over all pairs of pods and all ports that any of them opens."""
    pods = {component(each): each["spec"]["template"] for each in workloads(manifests)}
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}
    open_ports = {
        name: {port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports", ())}
        for name, pod in pods.items()
    }
    everywhere = set().union(*open_ports.values())
    return {
        (one, other, port)
        for one in pods
        for other in pods
        for port in everywhere
        if allowed(policies(manifests, labels[one], "Egress"), "to", labels[other], port)
        and allowed(policies(manifests, labels[other], "Ingress"), "from", labels[one], port)
    }


@pytest.mark.parametrize(("name", "file"), ALL)
def test_inside_a_chart_only_documented_arrows_are_open(name: str, file: str) -> None:
    """Each goes through the edge: a service to its inner port of the one that it needs, the edge to that one's API."""
    manifests = rendered(name, file)
    here = [service for service in SERVICES[name] if processes(service, manifests)]
    expected = {
        (process, "edge", PORTS[needed] + 1000)
        for service in here
        for process in processes(service, manifests)
        for needed in documented()[service] & set(here)
    }
    api = {service: "keys-helper" if service == "helper" else f"{service}-api" for service in here}
    expected |= {("edge", api[service], PORTS[service]) for service in here}
    assert arrows(manifests) == expected


@pytest.mark.parametrize("name", ["undersong-platform", "undersong-keys"])
def test_to_the_outside_each_service_reaches_its_stores_and_what_it_needs(name: str) -> None:
    manifests, needs = rendered(name, "minimal"), documented()
    for each in workloads(manifests):
        labels = each["spec"]["template"]["metadata"]["labels"]
        found: list[tuple[tuple[str, ...], int]] = []
        for rule in policies(manifests, labels, "Egress"):
            outside = [peer for peer in rule["to"] if "namespaceSelector" in peer or "ipBlock" in peer]
            found += [(tuple(sorted(map(str, outside))), port["port"]) for port in rule["ports"] if outside]
        service, _, kind = component(each).partition("-")
        service = kind if kind == "helper" else service
        expected = [DNS, DNS]
        if service != "edge":
            expected += [POSTGRES, *([REDIS] if service != "helper" and kind != "migrate" else [])]
        if kind in ("api", "worker"):
            expected += [PORTS[needed] for needed in needs[service] - set(SERVICES[name])]
        assert sorted(port for _, port in found) == sorted(expected), component(each)
        assert all(peers for peers, _ in found)


@pytest.mark.parametrize(("name", "file"), CASES)
def test_nothing_is_allowed_by_default(name: str, file: str) -> None:
    found = {each["metadata"]["name"]: each["spec"] for each in of_kind(rendered(name, file), "NetworkPolicy")}
    assert found["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in found.values():
        for rule in (*each.get("ingress", ()), *each.get("egress", ())):
            assert rule["ports"], "a rule without ports opens all of them"
        assert all(rule["to"] for rule in each.get("egress", ()))
        for rule in each.get("ingress", ()):
            open_to_all = "from" not in rule
            ports = {port["port"] for port in rule["ports"]}
            assert not open_to_all or ports <= set(PORTS.values()) - {PORTS["helper"]}
            assert open_to_all or rule["from"]


def test_sites_reach_the_published_ports_alone() -> None:
    """Where no client is named all may come, but not to the inner ports and not to the helper."""
    for name, expected in (("undersong-platform", [7001, 7002, 7004]), ("undersong-keys", [7003])):
        (edge,) = [e for e in of_kind(rendered(name, "minimal"), "NetworkPolicy") if e["metadata"]["name"] == "edge"]
        anyone = [rule for rule in edge["spec"]["ingress"] if "from" not in rule]
        assert sorted(port["port"] for rule in anyone for port in rule["ports"]) == expected
        named = [e for e in of_kind(rendered(name, "full"), "NetworkPolicy") if e["metadata"]["name"] == "edge"]
        assert all("from" in rule for rule in named[0]["spec"]["ingress"])


def test_prometheus_reaches_metrics_where_it_is_named() -> None:
    for name in ("undersong-platform", "undersong-keys"):
        manifests, source = rendered(name, "full"), values_of(name, "full")["monitoring"]["from"]
        for each in of_kind(manifests, "Deployment"):
            if component(each) == "edge":
                continue
            rules = list(policies(manifests, each["spec"]["template"]["metadata"]["labels"], "Ingress"))
            seen = {port["port"] for rule in rules if rule["from"] == source for port in rule["ports"]}
            containers = each["spec"]["template"]["spec"]["containers"]
            assert seen == {port["containerPort"] for one in containers for port in one["ports"]}, component(each)


def test_an_agent_calls_the_four_services_and_is_called_by_none() -> None:
    for file, ports in (("minimal", {7001, 7002, 7003, 7004}), ("full", {443, POSTGRES})):
        manifests = rendered("undersong-agent", file)
        (pod,) = workloads(manifests)
        labels = pod["spec"]["template"]["metadata"]["labels"]
        assert list(policies(manifests, labels, "Ingress")) == []
        rules = [r for r in policies(manifests, labels, "Egress") if r["ports"][0]["port"] != DNS]
        assert {port["port"] for rule in rules for port in rule["ports"]} == ports
        assert rules[0]["to"] == values_of("undersong-agent", file)["platform"]["to"]
