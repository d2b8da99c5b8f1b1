"""Settings come from the environment, hide secrets, and fail fast by name."""

from pathlib import Path

import pytest

from undersong.shared.web.settings import ServiceSettings, load_settings, settings_config


class Registry(ServiceSettings):
    model_config = settings_config("registry")


def test_values_come_from_the_services_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PORT", "7004")
    monkeypatch.setenv("REGISTRY_DATABASE_URL", "postgresql+psycopg://u:hush@db/registry")
    monkeypatch.setenv("KEYS_PORT", "1")
    settings = Registry()
    assert settings.port == 7004
    assert settings.database.endswith("@db/registry")
    assert "hush" not in repr(settings)


def test_the_default_database_is_sqlite_in_the_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGISTRY_DATA_DIR", str(tmp_path))
    settings = Registry()
    assert settings.database == f"sqlite+aiosqlite:///{tmp_path}/registry.sqlite"
    assert settings.seal_key == tmp_path / "seal.key"
    assert settings.identity_dir == tmp_path / "identity"


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "many"), ("KEYS_URL", "ftp://x"), ("KEYS_URL", "http://x/"), ("LOG_JSON", "perhaps")]
)
def test_a_bad_value_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"REGISTRY_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(Registry)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("setting REGISTRY_")
    assert name.lower() in message.lower()
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", ["REGISTRY_PROT", "REGISTRY_KEYSURL", "registry_data_dirs", "REGISTRY_LOG_LEVL"])
def test_a_misspelt_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What is not near a setting may be another program's, as the variables by which clusters tell of services."""
    for other in ("REGISTRY_SERVICE_HOST", "REGISTRY_PORT_7004_TCP", "REGISTRY_HELPER_URL", "KEYS_PROT"):
        monkeypatch.setenv(other, "x")
    load_settings(Registry)
    monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stopped:
        load_settings(Registry)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"setting {name} is no setting; did you mean 'REGISTRY_")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Registry().port = 1
