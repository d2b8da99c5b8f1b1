"""The agent's settings: `agent.yaml`, then the environment (`AGENT_…`), which wins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from undersong.services.agent.paths import path_fault
from undersong.shared.documents import document_faults
from undersong.shared.files import read_text
from undersong.shared.identity.owner import OwnerKeyText
from undersong.shared.names import environment_faults
from undersong.shared.yaml_texts import NotYaml, load_document


class ConfigError(Exception):
    """A file of the set-up that cannot be used; the text is one clear line per fault."""


PREFIX: Final = "AGENT_"
"""Of environment variables that are settings."""


class Mount(BaseModel):
    """One more folder or file in the recipe's container."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Path = Field(description="Folder or file at the site")
    target: str = Field(description="Its path in the container")
    read_only: bool = Field(True, description="Whether recipes may only read it")


class DockerSettings(BaseModel):
    """How recipes' containers are made when `runner: docker`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    image: str = Field("undersong-agent", description="Image of the containers")
    command: list[str] = Field(
        ["python", "-m", "undersong.services.agent.runner.child"], description="What runs in the container"
    )
    user: str | None = Field(
        default=None,
        pattern="^[1-9][0-9]*(:[0-9]+)?$",
        description="User, or user:group, by number, never root; none: the image's own",
    )
    environment: dict[str, str] = Field({}, description="More environment variables in the container")
    mounts: list[Mount] = Field([], description="More folders and files in the container")
    tmp_bytes: int = Field(default=256 * 2**20, ge=2**20, description="Size of /tmp in bytes")


class OwnerSettings(BaseModel):
    """The owners of the site's data, by their keys (`undersong owner init`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    keys: list[OwnerKeyText] = Field(min_length=1, max_length=100, description="Public owner keys, in hexadecimal")
    need: int = Field(default=1, ge=1, description="How many of them must sign a policy, or approve a request")

    @model_validator(mode="after")
    def _can_be_met(self) -> OwnerSettings:
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("keys: the same key is there twice")
        if self.need > len(self.keys):
            raise ValueError(f"need: {self.need} of {len(self.keys)} keys can never sign")
        return self


class ConsentPageSettings(BaseModel):
    """The owner's inbox as a page for a browser on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    port: int = Field(
        default=0, ge=0, le=65_535, description="Port on 127.0.0.1; 0: any free one, at each start another"
    )
    keys: list[Path] = Field(
        default=[],
        description="Owners' key files that the page may use, each opened with the passphrase that is typed there; "
        "none: the page only shows",
    )


class AgentSettings(BaseSettings):
    """`agent.yaml`; paths are relative to the folder of that file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("state"), description="Folder of the agent's state, identity and caches")
    high_water_file: Path | None = Field(
        default=None,
        description="File that shows what was sent lately; never in a backup, and never restored. None: `high-water` "
        "beside `data_dir`",
    )
    coordinator_url: str = Field(description="Base address of the coordinator")
    aggregator_url: str = Field(description="Base address of the aggregator")
    keys_url: str = Field(description="Base address of the keys service")
    registry_url: str = Field(description="Base address of the registry")
    enrol_token_file: Path | None = Field(None, description="File of the single-use token for the first certificate")
    ca_file: Path | None = Field(
        default=None, description="PEM file of the platform's own authority; none: the system's authorities are trusted"
    )
    ca_trust: Literal["only", "added"] = Field(
        default="only",
        description="`only`: what `ca_file` holds; `added`: the system's authorities as well, as behind a company's "
        "proxy",
    )
    datasets: Path = Field(Path("datasets.yaml"), description="File of the declared data sets")
    policy: Path = Field(Path("policy.yaml"), description="File of what the owner allows")
    owners: OwnerSettings | None = Field(
        default=None,
        description="Who must sign the policy (`undersong policy sign`) and what waits for consent; none: the policy "
        "holds as it is in its file",
    )
    consent_page: ConsentPageSettings | None = Field(
        default=None, description="Serve the owner's inbox to browsers on this machine; none: no port is opened"
    )
    recipes: list[Path] = Field(default=[], description="This site's own recipes: .py files, or folders of them")
    runner: Literal["process", "docker"] = Field(
        "process", description="Where recipes run: in a confined process, or in a container for each"
    )
    docker: DockerSettings = Field(DockerSettings(), description="How containers are made with `runner: docker`")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where recipes compute; `auto`: on a graphics processor where there is one"
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that train a recipe of PyTorch together, each a part of every batch; with `device: "
        "cuda` one for each GPU",
    )
    isolate_network: bool = Field(default=True, description="No network for recipes where the kernel allows it")
    containment: Literal["best", "required"] = Field(
        default="best",
        description="`required`: no recipe runs where the kernel lacks a part of the process runner's confinement; "
        "`best`: it runs with what the kernel has",
    )
    recipe_reads: list[Path] = Field(default=[], description="Files and folders that recipes read besides their data")
    child_idle_s: float = Field(
        default=600.0, gt=0, description="Seconds after which a recipe's process that has nothing to do ends"
    )
    data_again_s: float = Field(
        default=15.0, gt=0, description="Changed data files are read again at most once in so many seconds"
    )
    watch_log_s: float = Field(
        default=300.0, ge=1, description="Seconds between two looks at the transparency log, at most"
    )
    commit_ledger_s: float = Field(
        default=60.0,
        ge=1,
        description="Seconds between two commitments of the ledger's head to the transparency log, at least",
    )
    model_cache_bytes: int = Field(
        default=2 * 2**30, ge=0, description="Bytes of models that are kept to be used again"
    )
    otel_endpoint: str | None = Field(
        default=None, description="Where spans go: http://collector:4318 (OTLP), or file:/folder; none: nowhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")

    @property
    def high_water(self) -> Path:
        """The file that tells whether the state folder is older than what was sent."""
        return self.high_water_file or self.data_dir.with_name("high-water")

    @property
    def owner_mark(self) -> Path:
        """The file beside it that knows what the owners signed last."""
        return self.high_water.with_name(f"{self.high_water.name}.owner")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the library names the arguments)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the environment before the file."""
        return env_settings, init_settings


def load(config: Path) -> AgentSettings:
    """Read `agent.yaml` and the environment; ConfigError with one line per fault."""
    raw: Any = {}
    try:
        raw = load_document(read_text(config)) or {}
    except FileNotFoundError:
        pass  # the environment may say all
    except (NotYaml, UnicodeDecodeError) as error:
        raise ConfigError(f"{config}: not YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{config}: cannot be read: {error.strerror}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{config}: a mapping of settings is expected")
    try:
        settings = _resolved(AgentSettings(**raw), config.resolve().parent)
    except ValidationError as error:
        faults = document_faults(error, AgentSettings)
        lines = (f"{_place(config, *fault.path.strip('/').split('/'))}: {fault.message}" for fault in faults)
        raise ConfigError("\n".join(lines)) from error
    except SettingsError as error:  # of a list or mapping in the environment
        field = next((name for name in AgentSettings.model_fields if f'"{name}"' in str(error)), "")
        raise ConfigError(f'{_place(config, field)}: not JSON; a list is written as ["one", "two"]') from error
    _check_names(config, settings)
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise ConfigError(
            f"{_place(config, 'ca_file')}: there is no file {settings.ca_file}; the platform's operator has it"
        )
    return settings


def _place(config: Path, *parts: str) -> str:
    """Return where a setting's value comes from: an environment variable, or the field of the file."""
    given = {name.upper(): name for name in os.environ}
    variables = (PREFIX + "__".join(parts[:count]).upper() for count in range(len(parts), 0, -1))
    found = next((given[variable] for variable in variables if variable in given), None)
    return f"{config}: {'.'.join(parts) or '(file)'}" if found is None else f"environment variable {found}"


def explain(path: Path, error: ValidationError, form: type[BaseModel]) -> str:
    """Return one line per fault: file, place, what is wrong, and what a misspelt name was probably meant to be."""
    return "\n".join(
        f"{path}: {fault.path.lstrip('/').replace('/', '.') or '(file)'}: {fault.message}"
        for fault in document_faults(error, form)
    )


def _check_names(config: Path, settings: AgentSettings) -> None:
    """Raise ConfigError where a file's or a setting's name is a misspelling of one that is there."""
    faults = environment_faults(os.environ, PREFIX, AgentSettings.model_fields)
    named = {"datasets": [settings.datasets], "policy": [settings.policy], "recipes": settings.recipes}
    named["recipe_reads"] = settings.recipe_reads
    faults += [
        f"{_place(config, name)}: {fault}"
        for name, paths in named.items()
        for path in paths
        if (fault := path_fault(path))
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def _resolved(settings: AgentSettings, base: Path) -> AgentSettings:
    def at(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).resolve()

    mounts = [mount.model_copy(update={"source": at(mount.source)}) for mount in settings.docker.mounts]
    return settings.model_copy(
        update={
            "data_dir": at(settings.data_dir),
            "high_water_file": at(settings.high_water_file),
            "enrol_token_file": at(settings.enrol_token_file),
            "ca_file": at(settings.ca_file),
            "datasets": at(settings.datasets),
            "policy": at(settings.policy),
            "recipes": [at(path) for path in settings.recipes],
            "recipe_reads": [at(path) for path in settings.recipe_reads],
            "consent_page": _page(settings.consent_page, at),
            "docker": settings.docker.model_copy(update={"mounts": mounts}),
        }
    )


def _page(page: ConsentPageSettings | None, at: Callable[[Path], Path | None]) -> ConsentPageSettings | None:
    return page and page.model_copy(update={"keys": [at(path) for path in page.keys]})
