"""Profiles: where a platform's services are and which tokens to show them.

Stored as ``profiles.toml`` (mode 0600) in ``$UNDERSONG_HOME`` or ``~/.config/undersong``. `undersong up` writes one for
its own platform; `undersong login` writes one for a platform somewhere else. Environment variables
(``UNDERSONG_COORDINATOR_URL``, ``UNDERSONG_TOKEN`` …) win over the file.
"""

import json
import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from undersong.errors import ProfileError

DEFAULT_NAME: Final = "default"


@dataclass(frozen=True)
class Profile:
    """One platform as seen from here; urls have no trailing slash."""

    coordinator_url: str = ""
    aggregator_url: str = ""
    keys_url: str = ""
    registry_url: str = ""
    helper_url: str = ""
    token: str = ""
    operator_token: str = ""
    ca_file: str = ""
    home: str = ""

    def urls(self) -> dict[str, str]:
        """Service name → base url, for the services that the profile names."""
        names = ("coordinator", "aggregator", "keys", "registry")
        found = {name: str(getattr(self, f"{name}_url")) for name in names}
        return {name: url for name, url in found.items() if url}


def profiles_path() -> Path:
    """The file that holds the profiles."""
    home = os.environ.get("UNDERSONG_HOME")
    base = Path(home) if home else Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "undersong"
    return base / "profiles.toml"


def load_profile(name: str | None = None) -> Profile:
    """The named profile (default: ``$UNDERSONG_PROFILE`` or "default") with the environment's overrides."""
    chosen = name or os.environ.get("UNDERSONG_PROFILE", DEFAULT_NAME)
    profile = _overridden(read_profiles().get(chosen, Profile()))
    if not profile.coordinator_url:
        raise ProfileError(
            f"no platform is known as {chosen!r} in {profiles_path()}",
            remedy="start one with `undersong up`, or name one with `undersong login --coordinator-url …`",
        )
    return profile


def read_profiles() -> dict[str, Profile]:
    """Every stored profile by name; an absent file holds none."""
    path = profiles_path()
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ProfileError(f"{path} cannot be read: {error}", remedy="mend or delete the file") from error
    known = {field.name for field in fields(Profile)}
    return {
        name: Profile(**{key: str(value) for key, value in entry.items() if key in known})
        for name, entry in document.items()
        if isinstance(entry, dict)
    }


def save_profile(profile: Profile, name: str = DEFAULT_NAME) -> Path:
    """Store a profile under this name, readable by its owner only; returns the file."""
    return _write({**read_profiles(), name: profile})


def remove_profile(home: str, name: str = DEFAULT_NAME) -> None:
    """Forget the profile of an embedded platform, unless another platform has taken its name."""
    profiles = read_profiles()
    if name in profiles and profiles[name].home == home:
        _write({key: value for key, value in profiles.items() if key != name})


def _write(profiles: dict[str, Profile]) -> Path:
    path = profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name, profile in profiles.items():
        lines.append(f"[{json.dumps(name)}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in asdict(profile).items() if value]
        lines.append("")
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines))
    fresh.replace(path)
    return path


def _overridden(profile: Profile) -> Profile:
    found = {field.name: os.environ.get(f"UNDERSONG_{field.name.upper()}") for field in fields(Profile)}
    return replace(profile, **{key: value for key, value in found.items() if value and key != "home"})
