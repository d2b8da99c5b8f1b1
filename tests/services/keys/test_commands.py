"""The commands: bootstrap, key changes and migrations, each of which may be run again at any time."""

import asyncio
import stat
from pathlib import Path

import pytest

from undersong.services.keys.__main__ import PROGRAM, main
from undersong.services.keys.authority import Authority
from undersong.services.keys.operators import SERVICES
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.tables import Base
from undersong.services.keys.wiring import assemble, open_database
from undersong.shared.database.migrations import drift, head_revision, migrate
from undersong.shared.identity.sealing import SealBrokenError, Sealer

FILES = {"operator-token", *(f"{service}-enrol-token" for service in SERVICES)}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> KeysSettings:
    return KeysSettings(database_url=database_url, data_dir=tmp_path / "data")


async def in_database(settings: KeysSettings, action):
    database = open_database(settings)
    try:
        return await action(await assemble(settings, database))
    finally:
        await database.close()


def test_bootstrap_writes_private_files_once(settings: KeysSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    PROGRAM.run("bootstrap", settings, out)
    first = {path.name: path.read_text() for path in out.iterdir()}
    assert set(first) == FILES
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in out.iterdir())
    PROGRAM.run("bootstrap", settings, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == first


def test_bootstrap_goes_on_after_a_crash_half_way(settings: KeysSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    PROGRAM.run("bootstrap", settings, out)
    kept = (out / "operator-token").read_text()
    (out / "registry-enrol-token").unlink()
    (out / "aggregator-enrol-token").write_text("use_stale\n")
    PROGRAM.run("bootstrap", settings, out)
    assert (out / "operator-token").read_text() == kept
    assert (out / "registry-enrol-token").read_text().startswith("use_")
    assert (out / "aggregator-enrol-token").read_text() != "use_stale\n"


def test_the_operators_token_works_and_can_be_replaced(settings: KeysSettings, tmp_path: Path) -> None:
    PROGRAM.run("bootstrap", settings, tmp_path)
    old = (tmp_path / "operator-token").read_text().strip()
    PROGRAM.run("new-operator-token", settings, tmp_path)
    new = (tmp_path / "operator-token").read_text().strip()

    async def look(components):
        return await components.operators.lookup(old), await components.operators.lookup(new)

    before, after = asyncio.run(in_database(settings, look))
    assert before is None
    assert after is not None


def test_a_new_seal_key_opens_the_same_authority_and_the_old_one_nothing(
    settings: KeysSettings, tmp_path: Path
) -> None:
    PROGRAM.run("bootstrap", settings, tmp_path)
    old_key = settings.seal_key.read_text()

    async def fingerprint(components):
        return components.authority.certificate_pem

    before = asyncio.run(in_database(settings, fingerprint))
    PROGRAM.run("new-seal-key", settings, None)
    assert asyncio.run(in_database(settings, fingerprint)) == before
    (tmp_path / "old.key").write_text(old_key)

    async def open_with_old() -> None:
        database = open_database(settings)
        try:
            await Authority.open(database, Sealer(tmp_path / "old.key"), "x")
        finally:
            await database.close()

    with pytest.raises(SealBrokenError):
        asyncio.run(open_with_old())


@pytest.mark.both_databases
def test_two_first_starts_at_once_make_one_authority(settings: KeysSettings) -> None:
    migrate(settings.database, "keys")

    async def both():
        sealer = Sealer.ensure(settings.seal_key)
        databases = [open_database(settings), open_database(settings)]
        try:
            return await asyncio.gather(*(Authority.open(each, sealer, "x") for each in databases))
        finally:
            for each in databases:
                await each.close()

    settings.data_dir.mkdir()
    first, second = asyncio.run(both())
    assert first.certificate_pem == second.certificate_pem


@pytest.mark.both_databases
def test_the_migrations_make_the_tables_of_the_code(settings: KeysSettings, database_url: str) -> None:
    migrate(database_url, "keys")
    assert drift(database_url, "keys", Base.metadata) == []
    assert head_revision("keys") == "0004"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["bootstrap"]])
def test_wrong_usage_is_one_clear_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
