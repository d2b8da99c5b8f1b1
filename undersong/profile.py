"""Profiles: where a platform's services are and which tokens to show them.

`undersong login` stores profiles in ``profiles.toml`` (mode 0600) in ``$UNDERSONG_HOME`` or ``~/.config/undersong``; no
other command writes that file. A platform that runs on this machine (`undersong up`) has a file of its own beside it,
``local/NAME.toml``, from its start to its end.

Which platform a command speaks to, first match wins:

1. the profile that ``--profile`` names, then ``$UNDERSONG_PROFILE`` (stored ones before local ones);
2. with ``$UNDERSONG_COORDINATOR_URL`` set, the stored profile "default" under the environment's values;
3. the local platform that runs: the one whose folder is in the current folder, else the only one;
4. the stored profile "default".

Environment variables (``UNDERSONG_TOKEN``, ``UNDERSONG_CA_FILE`` …) win over single values of whichever it is.
"""

import fcntl
import json
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from undersong.errors import ProfileError, UnreachableError
from undersong.shared.files import open_lock, open_regular, read_text

DEFAULT_NAME: Final = "default"
LOCAL_NAME: Final = "local"
STARTING: Final = "starting"
STOPPING: Final = "stopping"
LOCK_FILE: Final = "lock"  # in a platform's folder: held as long as the platform runs


@dataclass(frozen=True)
class Profile:
    """One platform as seen from here; urls have no trailing slash.

    `home`: the folder of a local platform. `state`: "starting" or "stopping" while it cannot be used.
    """

    coordinator_url: str = ""
    aggregator_url: str = ""
    keys_url: str = ""
    registry_url: str = ""
    helper_url: str = ""
    token: str = ""
    operator_token: str = ""
    ca_file: str = ""
    ca_trust: str = ""
    home: str = ""
    state: str = ""

    def urls(self) -> dict[str, str]:
        """Service name → base url, for the services that the profile names."""
        names = ("coordinator", "aggregator", "keys", "registry")
        found = {name: str(getattr(self, f"{name}_url")) for name in names}
        return {name: url for name, url in found.items() if url}


def config_folder() -> Path:
    """Return the folder of everything that is stored for this user."""
    home = os.environ.get("UNDERSONG_HOME")
    return Path(home) if home else Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "undersong"


def profiles_path() -> Path:
    """Return the file that holds the stored profiles."""
    return config_folder() / "profiles.toml"


def load_profile(name: str | None = None) -> Profile:
    """Return the profile that a command speaks to, with the environment's overrides; ProfileError when there is none.

    Raises UnreachableError for a local platform that is starting or stopping.
    """
    chosen, profile = choose_profile(name)
    if profile.state:
        remedy = "wait until `undersong up` says that it is up" if profile.state == STARTING else "undersong up"
        raise UnreachableError(f"the local platform {chosen!r} in {profile.home} is {profile.state}", remedy=remedy)
    profile = _overridden(profile)
    if not profile.coordinator_url:
        raise ProfileError(
            f"no platform is known as {chosen!r} in {profiles_path()}",
            remedy="start one with `undersong up`, or name one with `undersong login --coordinator-url …`",
        )
    return profile


def choose_profile(name: str | None = None) -> tuple[str, Profile]:
    """Name and profile by the order of precedence above, without the environment's overrides.

    Raises ProfileError where several local platforms run and none is named or in the current folder.
    """
    stored, named = read_profiles(), name or os.environ.get("UNDERSONG_PROFILE", "")
    if named:
        return named, stored.get(named) or local_profiles().get(named) or Profile()
    if not os.environ.get("UNDERSONG_COORDINATOR_URL"):
        running = local_profiles()
        near = {key: found for key, found in running.items() if Path(found.home).is_relative_to(Path.cwd())}
        candidates = near if len(near) == 1 else running
        if len(candidates) > 1:
            names = ", ".join(f"{key} ({found.home})" for key, found in sorted(candidates.items()))
            raise ProfileError(f"several platforms run on this machine: {names}", remedy="name one with --profile NAME")
        if candidates:
            return next(iter(candidates.items()))
    return DEFAULT_NAME, stored.get(DEFAULT_NAME, Profile())


def read_profiles() -> dict[str, Profile]:
    """Return every stored profile by name; an absent file holds none."""
    return {name: _profile(entry) for name, entry in _read(profiles_path()).items() if isinstance(entry, dict)}


def save_profile(profile: Profile, name: str = DEFAULT_NAME) -> Path:
    """Store a profile under this name, readable by its owner only, and leave the others as they are; the file."""
    path = profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_lock(path.parent / "profiles.lock") as lock:  # two logins at once keep each other's profile
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = {key: entry for key, entry in _read(path).items() if isinstance(entry, dict)}
        _write(path, {**entries, name: _stored(profile)})
    return path


# platforms of this machine


def local_profiles() -> dict[str, Profile]:
    """Return the platforms that run on this machine, by name; what a killed one left behind is no platform."""
    found = {}
    for path in sorted(_local_folder().glob("*.toml")):
        with suppress(ProfileError):  # it may end, or be written, at this very moment
            profile = _profile(_read(path))
            if profile.home and is_running(Path(profile.home)):
                found[path.stem] = profile
    return found


def save_local_profile(profile: Profile) -> str:
    """Store the profile of a local platform under a free name, "local" first; the name.

    The caller holds the lock of the platform's folder. Names of stored profiles and of other local platforms are not
    taken; the same folder gets its name again.
    """
    folder, number, taken = _local_folder(), 1, set(read_profiles())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open_lock(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _forget_dead(folder, but=profile.home)
        homes = {path.stem: _home(path) for path in folder.glob("*.toml")}
        name = next((known for known, home in homes.items() if home == profile.home), "")
        while not name or name in taken:
            candidate = LOCAL_NAME if number == 1 else f"{LOCAL_NAME}-{number}"
            name, number = ("" if candidate in homes else candidate), number + 1
        _write(folder / f"{name}.toml", _stored(profile))
    return name


def remove_local_profile(home: str) -> None:
    """Forget the profile of the local platform in this folder; no other is touched."""
    folder = _local_folder()
    for path in folder.glob("*.toml"):
        if _home(path) == home:
            path.unlink(missing_ok=True)


def is_running(home: Path) -> bool:
    """Return whether a platform runs in this folder; nothing is made where there is none."""
    try:
        with os.fdopen(open_regular(home / LOCK_FILE)) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _forget_dead(folder: Path, but: str) -> None:
    for path in folder.glob("*.toml"):
        home = _home(path)
        if home != but and not (home and is_running(Path(home))):
            path.unlink(missing_ok=True)


def _local_folder() -> Path:
    return config_folder() / "local"


def _home(path: Path) -> str:
    try:
        return _profile(_read(path)).home
    except ProfileError:
        return ""


def _profile(entry: Mapping[str, Any]) -> Profile:
    known = {field.name for field in fields(Profile)}
    return Profile(**{key: str(value) for key, value in entry.items() if key in known})


def _stored(profile: Profile) -> dict[str, str]:
    return {key: value for key, value in asdict(profile).items() if value}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ProfileError(f"{path} cannot be read: {error}", remedy="correct or delete the file") from error


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a TOML file at one moment; values are text, numbers, truths, or tables of them."""
    lines: list[str] = []
    for name, entry in document.items():
        if isinstance(entry, dict):
            lines += ["", f"[{_text(name)}]", *(f"{_text(key)} = {_value(value)}" for key, value in entry.items())]
        else:
            lines.append(f"{_text(name)} = {_value(entry)}")
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines).strip() + "\n")
    fresh.replace(path)


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else _text(str(value))


def _text(value: str) -> str:
    """Return a basic string of TOML: JSON's, but no surrogates (TOML has none) and no bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _overridden(profile: Profile) -> Profile:
    found = {field.name: os.environ.get(f"UNDERSONG_{field.name.upper()}") for field in fields(Profile)}
    return replace(profile, **{key: value for key, value in found.items() if value and key not in ("home", "state")})
