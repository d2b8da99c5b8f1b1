"""The embedded platform's folder: private files, stable ports, settings that the services read."""

import socket
import stat
from pathlib import Path

import pytest
import yaml

from undersong.local.layout import SERVICES, Layout, base_environment
from undersong.local.sites import SiteFolder, existing_sites


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    first = Layout.prepare(tmp_path).seal_key("keys").read_text()
    layout = Layout.prepare(tmp_path)
    assert layout.seal_key("keys").read_text() == first
    for path in (*(tmp_path / "secrets").iterdir(), tmp_path / "valkey" / "valkey.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_service_has_its_own_key(tmp_path: Path) -> None:
    layout = Layout.prepare(tmp_path)
    assert len({layout.seal_key(service).read_text() for service in SERVICES}) == len(SERVICES)


def test_ports_stay_while_they_are_free(tmp_path: Path) -> None:
    ports = Layout.prepare(tmp_path).ports
    assert Layout.prepare(tmp_path).ports == ports
    assert len(set(ports.values())) == len(ports)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["keys"]))
        taken.listen()
        again = Layout.prepare(tmp_path).ports
    assert again["keys"] != ports["keys"]
    assert again["registry"] == ports["registry"]


def test_the_callers_settings_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_DATABASE_URL", "postgresql://elsewhere")
    monkeypatch.setenv("AGENT_DEVICE", "cuda")
    assert not {"COORDINATOR_DATABASE_URL", "AGENT_DEVICE"} & set(base_environment())
    environment = Layout.prepare(tmp_path).environment("coordinator", extra={"heartbeat_s": "1"})
    assert environment["COORDINATOR_DATABASE_URL"].endswith("/coordinator/coordinator.sqlite")
    assert environment["COORDINATOR_HEARTBEAT_S"] == "1"


def test_a_site_folder_keeps_its_settings_when_addresses_change(tmp_path: Path) -> None:
    folder = SiteFolder(tmp_path / "sites" / "north")
    folder.write({"keys": "http://a"}, token="once", datasets={"datasets": []}, agent={"device": "cpu"})
    [found] = existing_sites(tmp_path)
    found.write_addresses({"keys": "http://b"})
    settings = yaml.safe_load(folder.config.read_text())
    assert (settings["keys_url"], settings["device"]) == ("http://b", "cpu")


def test_copied_data_set_declarations_still_find_their_files(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    (source / "rows.csv").write_text("x,y\n1,0\n")
    columns = [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}]
    entry = {"name": "d", "kind": "csv", "path": "rows.csv", "label": "y", "columns": columns}
    (source / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    folder = SiteFolder(tmp_path / "sites" / "north")
    folder.write({}, token="once", datasets=source / "datasets.yaml")
    [copied] = yaml.safe_load((folder.path / "datasets.yaml").read_text())["datasets"]
    assert copied["path"] == str(source / "rows.csv")
