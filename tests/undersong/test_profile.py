"""Profiles survive the round trip, stay private, and yield to the environment."""

import stat
from pathlib import Path

import pytest

from undersong.errors import ProfileError
from undersong.profile import Profile, load_profile, profiles_path, read_profiles, remove_profile, save_profile


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


def test_only_the_platform_that_wrote_a_profile_removes_it() -> None:
    save_profile(Profile(coordinator_url="http://a", home="/mine"))
    remove_profile("/other")
    assert load_profile().home == "/mine"
    remove_profile("/mine")
    assert read_profiles() == {}


def test_a_broken_file_is_one_clear_error() -> None:
    profiles_path().write_text("= broken")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile()
