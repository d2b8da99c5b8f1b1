"""What the charts tell the processes: settings that their classes read, ports of the compose file, the edge's rules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from tests.deploy.charts import (
    CASES,
    CHARTS,
    ROOT,
    Manifest,
    chart,
    component,
    containers,
    of_kind,
    render,
    rendered,
    values_of,
    workloads,
)
from undersong.recipes.declaration import DatasetEntry
from undersong.reference.pages import SETTINGS
from undersong.services.agent.policy import file as policies
from undersong.services.agent.settings import AgentSettings, load
from undersong.shared.web.settings import ServiceSettings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
NGINX = ROOT / "deploy" / "nginx"
SECRETS = "/run/secrets"
SERVER = re.compile(r"listen (\d+) ssl;\s+listen (\d+) ssl;\s+include \S+/(\w+)\.conf;")
UPSTREAM = re.compile(r"set \$upstream ([a-z-]+)\.ns\.svc\.cluster\.local:(\d+);\nproxy_ssl_name \1;")
SERVERS = [case for case in CASES if case[0] != "undersong-agent"]
HELD_BY_CHART = {
    *("host", "port", "data_dir", "seal_key_file", "tls_file", "ca_file", "migrate_on_start", "database_url"),
    *("redis_url", "coordinator_url", "aggregator_url", "keys_url", "registry_url", "helper_url", "public_url"),
    *("public_aggregator_url", "public_keys_url", "public_registry_url", "enrol_token_file", "worker_metrics_port"),
    *("high_water_file", "trusted_proxies", "log_level", "otel_endpoint"),
}
HELD_BY_AGENTS_CHART = {
    *("data_dir", "high_water_file", "coordinator_url", "aggregator_url", "keys_url", "registry_url", "ca_file"),
    *("enrol_token_file", "datasets", "policy", "runner", "docker"),
}


def service_of(workload: Manifest) -> str:
    first, _, second = component(workload).partition("-")
    return second if second == "helper" else first


def environment(container: Manifest) -> dict[str, str]:
    names = [each["name"] for each in container.get("env", ())]
    assert len(names) == len(set(names))
    assert all(isinstance(each["value"], str) for each in container.get("env", ()))
    return {each["name"]: each["value"] for each in container.get("env", ())}


def services(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    return [each for each in workloads(manifests) if component(each) != "edge"]


@pytest.mark.parametrize(("name", "file"), SERVERS)
def test_every_variable_is_a_setting_and_the_settings_accept_it(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in ("seal-key", "tls.pem", "ca.pem"):
        (tmp_path / secret).write_text("")
    for each in services(rendered(name, file)):
        kind: type[ServiceSettings] = SETTINGS[service_of(each)]
        prefix = str(kind.model_config["env_prefix"])
        for container in containers(each):
            given = environment(container)
            fields = {variable.removeprefix(prefix).lower() for variable in given}
            assert all(variable.startswith(prefix) for variable in given)
            assert fields <= set(kind.model_fields), component(each)
            with monkeypatch.context() as patched:
                for variable, value in given.items():
                    patched.setenv(variable, value.replace(SECRETS, str(tmp_path)))
                settings = kind()
            assert settings.migrate_on_start is False
            assert settings.host == "0.0.0.0"
            named = values_of(name, file).get(service_of(each), {}).get("settings", {})
            assert {field: getattr(settings, field) for field in named} == named


@pytest.mark.parametrize(("name", "file"), SERVERS)
def test_no_secret_is_in_a_manifest_and_each_file_is_mounted(name: str, file: str) -> None:
    for each in services(rendered(name, file)):
        spec = each["spec"]["template"]["spec"]
        for container in containers(each):
            given = environment(container)
            assert not [variable for variable in given if variable.endswith(("_DATABASE_URL", "_REDIS_URL"))]
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert set(mounts) <= {"/tmp", SECRETS, "/run/enrol", "/var/lib/undersong", "/var/lib/undersong-marks"}
            assert mounts[SECRETS]["readOnly"] is True
            for value in given.values():
                assert not value.startswith("/") or any(value.startswith(path) for path in mounts), value
        assert {volume["secret"]["defaultMode"] for volume in spec["volumes"] if "secret" in volume} == {0o440}


@pytest.mark.parametrize("chart_name", ["undersong-platform", "undersong-keys"])
def test_ports_are_those_of_the_compose_file(chart_name: str) -> None:
    for each in of_kind(rendered(chart_name, "minimal"), "Deployment"):
        name = component(each)
        if name == "edge":
            continue
        for container in containers(each):
            in_compose = COMPOSE[f"keys-{container['name']}" if service_of(each) == "keys" else name]["environment"]
            prefix, given = service_of(each).upper(), environment(container)
            same = [variable for variable in (f"{prefix}_PORT", f"{prefix}_WORKER_METRICS_PORT") if variable in given]
            assert {variable: given[variable] for variable in same} == {v: in_compose[v] for v in same}
            (port,) = container["ports"]
            key = f"{prefix}_PORT" if port["name"] == "https" else f"{prefix}_WORKER_METRICS_PORT"
            assert str(port["containerPort"]) == in_compose[key]
            inner = {value for variable, value in given.items() if value.startswith("https://edge:")}
            assert inner <= {value for value in in_compose.values() if value.startswith("https://edge:")}


def test_the_edge_publishes_the_ports_of_the_compose_file() -> None:
    published = {int(port.rpartition(":")[2]) for port in COMPOSE["edge"]["ports"]}
    found: set[int] = set()
    for name in ("undersong-platform", "undersong-keys"):
        made = {each["metadata"]["name"]: each for each in of_kind(rendered(name, "minimal"), "Service")}
        outside = {port["port"] for port in made["edge-public"]["spec"]["ports"]}
        assert {port["port"] for port in made["edge"]["spec"]["ports"]} == {port + 1000 for port in outside}
        assert "type" not in made["edge"]["spec"], "the inner ports are never published"
        assert not found & outside
        found |= outside
    assert found == published


@pytest.mark.parametrize(("name", "file"), SERVERS)
def test_the_edge_has_the_rules_of_deploy_nginx(name: str, file: str) -> None:
    """Unchanged but for the resolver and for where a service is, which is checked by the name that compose gives it."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(rendered(name, file), "ConfigMap")}
    resolver = "kube-dns.kube-system.svc.cluster.local"
    assert maps["edge"]["nginx.conf"].replace(f"resolver {resolver} ", "resolver 127.0.0.11 ") == (
        (NGINX / "nginx.conf").read_text()
    )
    own = values_of(name, file).get("edge", {}).get("ownCertificateSecret")
    chosen = NGINX / ("certificates.own.conf" if own else "certificates.conf")
    assert maps["edge"]["certificates.conf"] == chosen.read_text()
    servers = SERVER.findall(maps["edge"]["servers.conf"])
    assert set(servers) <= set(SERVER.findall((NGINX / "servers.conf").read_text()))
    parts = {f"{service}.conf" for _, _, service in servers}
    assert set(maps["edge-services"]) == {*parts, "common.conf", "problems.conf"}
    reached = {each["metadata"]["name"] for each in of_kind(rendered(name, file), "Service")}
    for file_name, text in maps["edge-services"].items():
        assert UPSTREAM.sub(r"set $upstream \1:\2;", text) == (NGINX / "services" / file_name).read_text()
        found = [host for host, _ in UPSTREAM.findall(text)]
        assert len(found) == (file_name in parts)
        assert set(found) <= reached


@pytest.mark.parametrize(
    ("name", "part", "kind", "held"),
    [
        ("undersong-platform", "coordinator", SETTINGS["coordinator"], HELD_BY_CHART),
        ("undersong-platform", "aggregator", SETTINGS["aggregator"], HELD_BY_CHART),
        ("undersong-platform", "registry", SETTINGS["registry"], HELD_BY_CHART),
        ("undersong-keys", "keys", SETTINGS["keys"], HELD_BY_CHART),
        ("undersong-keys", "helper", SETTINGS["helper"], HELD_BY_CHART),
        ("undersong-agent", None, AgentSettings, HELD_BY_AGENTS_CHART),
    ],
)
def test_the_schema_of_values_knows_every_setting(
    name: str, part: str | None, kind: type[BaseModel], held: set[str]
) -> None:
    """A new setting is added to `propertyNames` in values.schema.json, or to what the chart itself sets."""
    properties = json.loads((CHARTS / name / "values.schema.json").read_text())["properties"]
    at = properties[part]["properties"] if part else properties
    assert at["settings"]["propertyNames"]["enum"] == sorted(set(kind.model_fields) - held)


@pytest.mark.parametrize("name", ["undersong-platform", "undersong-keys", "undersong-agent"])
def test_the_schema_knows_every_value(name: str) -> None:
    schema = json.loads((CHARTS / name / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(chart(name).values)


@pytest.mark.parametrize("file", ["minimal", "full"])
def test_an_agent_accepts_its_files(file: str, tmp_path: Path) -> None:
    """`agent.yaml`, data sets and policy, read by the agent's own code."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(rendered("undersong-agent", file), "ConfigMap")}
    for name, text in {**maps["agent-settings"], **maps["agent"]}.items():
        (tmp_path / name).write_text(text.replace("/etc/undersong", str(tmp_path)).replace("/run/ca", str(tmp_path)))
    (tmp_path / "ca.pem").write_text("")
    settings = load(tmp_path / "agent.yaml")
    assert settings.runner == "process"
    assert settings.coordinator_url == values_of("undersong-agent", file)["platform"]["urls"]["coordinator"]
    policies.load(settings.policy)
    for entry in yaml.safe_load(settings.datasets.read_text())["datasets"]:
        DatasetEntry.model_validate(entry)
    (pod,) = workloads(rendered("undersong-agent", file))
    (container,) = containers(pod)
    assert "env" not in container, "all that it is told is in agent.yaml"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert mounts == {"/tmp", str(settings.data_dir.parent), str(settings.high_water.parent)}


def test_data_is_read_only_at_a_site() -> None:
    (pod,) = workloads(rendered("undersong-agent", "full"))
    (container,) = containers(pod)
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/data"]
    assert mount["readOnly"] is True


def test_an_owner_may_bring_signed_files() -> None:
    names = {each["metadata"]["name"] for each in of_kind(rendered("undersong-agent", "own-files"), "ConfigMap")}
    assert names == {"agent-settings"}


def test_numbers_of_values_stay_numbers() -> None:
    """Helm reads numbers as floats, and would write 1.073741824e+09."""
    more = {"aggregator": {"settings": {"share_bytes": 1 << 40, "step_s": 0.25, "max_update_bytes": 5}}}
    (api,) = [
        each
        for each in of_kind(render("undersong-platform", more), "Deployment")
        if component(each) == "aggregator-api"
    ]
    given = environment(next(containers(api)))
    assert given["AGGREGATOR_SHARE_BYTES"] == str(1 << 40)
    assert (given["AGGREGATOR_STEP_S"], given["AGGREGATOR_MAX_UPDATE_BYTES"]) == ("0.25", "5")
