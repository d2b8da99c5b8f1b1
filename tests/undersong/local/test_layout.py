"""The embedded platform's folder: private files, stable ports, settings that the services read."""

import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from undersong.errors import StartError, UndersongError
from undersong.local.layout import SERVICES, Layout, base_environment, is_free
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


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield int(taken.getsockname()[1])


def test_a_taken_port_is_an_error_with_its_remedies(tmp_path: Path) -> None:
    """Agents elsewhere know the addresses: no port moves unless that is asked for, and the error changes nothing."""
    ports = Layout.prepare(tmp_path).ports
    assert Layout.prepare(tmp_path).ports == ports
    assert len(set(ports.values())) == len(ports)
    for name, port in ports.items():
        with listening(port):
            with pytest.raises(StartError) as refused:
                Layout.prepare(tmp_path)
            assert f"{port} ({name})" in refused.value.message
            assert "--port" in str(refused.value)
            assert "--move" in str(refused.value)
        assert Layout.prepare(tmp_path).ports == ports
    with listening(ports["keys"]):
        moved = Layout.prepare(tmp_path, move=True).ports
    assert {name for name in ports if moved[name] != ports[name]} == {"keys"}
    assert Layout.prepare(tmp_path).ports == moved


def test_ports_can_be_chosen_in_a_row(tmp_path: Path) -> None:
    with listening() as taken, pytest.raises(StartError, match=str(taken)):
        Layout.prepare(tmp_path, port=taken - 1)
    first = next(port for port in range(15_000, 32_000) if all(is_free(port + more) for more in range(6)))
    ports = Layout.prepare(tmp_path, port=first).ports
    assert (ports["coordinator"], ports["registry"], ports["valkey"]) == (first, first + 3, first + 5)
    assert Layout.prepare(tmp_path).ports == ports
    with pytest.raises(StartError, match="no port"):
        Layout.prepare(tmp_path, port=65_535)


def test_ports_of_a_killed_run_may_come_free(tmp_path: Path) -> None:
    ports = Layout.prepare(tmp_path).ports
    with ExitStack() as stack:
        stack.enter_context(listening(ports["keys"]))
        timer = threading.Timer(0.3, stack.close)
        timer.start()
        assert Layout.prepare(tmp_path, wait_s=30).ports == ports
        timer.join()


def test_a_broken_list_of_ports_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("[1")
    with pytest.raises(StartError, match=r"ports\.json"):
        Layout.prepare(tmp_path)


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
    (source / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry | {"label": "yy"}]}))
    with pytest.raises(UndersongError, match="did you mean 'y'"):
        folder.write({}, token="once", datasets=source / "datasets.yaml")
