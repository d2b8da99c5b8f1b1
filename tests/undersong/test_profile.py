"""Profiles survive the round trip, stay private, and yield to the environment."""

import fcntl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from undersong.errors import ProfileError, UnreachableError
from undersong.profile import (
    STARTING,
    STOPPING,
    Profile,
    load_profile,
    local_profiles,
    profiles_path,
    read_profiles,
    remove_local_profile,
    save_local_profile,
    save_profile,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path))
    for name in ("PROFILE", "COORDINATOR_URL", "TOKEN"):
        monkeypatch.delenv(f"UNDERSONG_{name}", raising=False)
    return tmp_path


def test_a_profile_comes_back_as_it_was_stored() -> None:
    profile = Profile(coordinator_url="http://a", token='with "quotes" and \\', home="/x")
    save_profile(profile, "a b.c")
    save_profile(Profile(coordinator_url="http://other"))
    assert load_profile("a b.c") == profile
    assert set(read_profiles()) == {"a b.c", "default"}


def test_the_file_is_readable_by_its_owner_only() -> None:
    save_profile(Profile(coordinator_url="http://a", token="secret"))
    assert stat.S_IMODE(profiles_path().stat().st_mode) == 0o600


def test_an_unknown_profile_names_the_remedy() -> None:
    with pytest.raises(ProfileError, match="undersong up"):
        load_profile("nowhere")


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    save_profile(Profile(coordinator_url="http://a", token="stored"))
    monkeypatch.setenv("UNDERSONG_TOKEN", "given")
    assert load_profile().token == "given"
    assert load_profile().coordinator_url == "http://a"


@contextmanager
def running(folder: Path) -> Iterator[Profile]:
    """A platform's folder, held as a running platform holds it."""
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Profile(coordinator_url=f"http://{folder.name}", token="local", home=str(folder))


def test_a_local_platform_never_touches_a_stored_profile(tmp_path: Path) -> None:
    """Neither the default nor one that has the name which a local platform would take."""
    profiles_path().write_text(
        '# ours\n[default]\ncoordinator_url = "https://a"\ntoken = "t"\n[local]\ncoordinator_url = "b"\n'
    )
    before = profiles_path().read_bytes()
    with running(tmp_path / "x") as profile:
        assert save_local_profile(profile) == "local-2"
        assert profiles_path().read_bytes() == before
        assert load_profile() == profile
        assert load_profile("default").token == "t"
        assert load_profile("local").coordinator_url == "b"
        remove_local_profile(profile.home)
    assert profiles_path().read_bytes() == before
    assert load_profile().token == "t"


def test_each_local_platform_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "x") as first, running(tmp_path / "y") as second:
        assert [save_local_profile(first), save_local_profile(second), save_local_profile(first)] == [
            "local",
            "local-2",
            "local",
        ]
        with pytest.raises(ProfileError, match="--profile"):
            load_profile()
        assert load_profile("local-2") == second
        monkeypatch.chdir(tmp_path / "y")
        assert load_profile() == second, "the one in the current folder"
        remove_local_profile(second.home)
        assert local_profiles() == {"local": first}


@pytest.mark.parametrize("state", [STARTING, STOPPING])
def test_a_platform_that_cannot_be_used_yet_is_named(tmp_path: Path, state: str) -> None:
    """No other one is used in its place: a command meant for it must not go to the stored default."""
    save_profile(Profile(coordinator_url="http://a"))
    with running(tmp_path / "x") as first, running(tmp_path / "y") as second:
        name = save_local_profile(Profile(home=first.home, state=state))
        for named in (None, name):
            with pytest.raises(UnreachableError, match=f"in {first.home} is {state}"):
                load_profile(named)
        assert load_profile("default").coordinator_url == "http://a"
        assert save_local_profile(second) == "local-2"
        assert save_local_profile(second) == "local-2", "also once the first is gone"
        remove_local_profile(first.home)
        assert save_local_profile(second) == "local-2"
        assert load_profile() == second


def test_a_killed_platform_is_not_found_and_leaves_its_name(tmp_path: Path) -> None:
    save_profile(Profile(coordinator_url="http://a"))
    with running(tmp_path / "x") as first:
        save_local_profile(first)
    assert local_profiles() == {}
    assert load_profile().coordinator_url == "http://a"
    with running(tmp_path / "y") as second:
        assert save_local_profile(second) == "local"


def test_a_local_token_never_goes_to_an_address_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSONG_COORDINATOR_URL", "https://elsewhere")
    with running(tmp_path / "x") as profile:
        save_local_profile(profile)
        assert load_profile() == Profile(coordinator_url="https://elsewhere")


def test_a_local_profile_is_private(tmp_path: Path) -> None:
    with running(tmp_path / "x") as profile:
        name = save_local_profile(profile)
        file = profiles_path().parent / "local" / f"{name}.toml"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_storing_one_profile_keeps_all_of_the_others() -> None:
    """Values that this release does not know, too; and text that TOML escapes differently from JSON."""
    profiles_path().write_text('[other]\ncoordinator_url = "http://o"\nretries = 3\nstrict = true\n')
    save_profile(Profile(coordinator_url="http://a", home="/\N{GRINNING FACE}\x7f\\"), "a")
    text = profiles_path().read_text()
    assert "retries" in text
    assert "strict" in text
    assert load_profile("other").coordinator_url == "http://o"
    assert load_profile("a").home == "/\N{GRINNING FACE}\x7f\\"


def test_a_broken_file_is_one_clear_error() -> None:
    profiles_path().write_text("= broken")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile()
