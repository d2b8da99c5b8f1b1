"""The agent's settings: `agent.yaml`, then the environment (`AGENT_…`), which wins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.agent.paths import environment_faults, path_fault
from shared.documents import document_faults
from shared.yaml_texts import NotYaml, load_document


class ConfigError(Exception):
    """A file of the set-up that cannot be used; the text is one clear line per fault."""


class Mount(BaseModel):
    """One more folder or file in the recipe's container."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: Path
    target: str
    read_only: bool = True


class DockerSettings(BaseModel):
    """How recipes' containers are made when `runner: docker`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    image: str = "undersong-agent"
    command: list[str] = ["python", "-m", "services.agent.runner.child"]
    user: str | None = Field(default=None, pattern="^[1-9][0-9]*(:[0-9]+)?$", description="never root")
    environment: dict[str, str] = {}
    mounts: list[Mount] = []
    tmp_bytes: int = Field(default=256 * 2**20, ge=2**20)


class AgentSettings(BaseSettings):
    """`agent.yaml`; paths are relative to the folder of that file."""

    model_config = SettingsConfigDict(env_prefix="AGENT_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Path("state")
    high_water_file: Path | None = Field(
        default=None,
        description="what was sent lately; none: `high-water` beside data_dir. Never in a backup, and never put back",
    )
    coordinator_url: str
    aggregator_url: str
    keys_url: str
    registry_url: str
    enrol_token_file: Path | None = None
    ca_file: Path | None = Field(default=None, description="trust for https when the platform has its own CA")
    ca_trust: Literal["only", "added"] = Field(
        default="only", description="added: the system's authorities count besides ca_file, as behind a company's proxy"
    )
    datasets: Path = Path("datasets.yaml")
    policy: Path = Path("policy.yaml")
    recipes: list[Path] = Field(default=[], description="this site's own recipes: .py files, or folders of them")
    runner: Literal["process", "docker"] = "process"
    docker: DockerSettings = DockerSettings()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    isolate_network: bool = Field(default=True, description="no network for recipes where the kernel allows it")
    containment: Literal["best", "required"] = Field(
        default="best",
        description="required: no recipe runs where the kernel lacks a part of the process runner's walls",
    )
    recipe_reads: list[Path] = Field(default=[], description="files and folders that recipes read besides their data")
    child_idle_s: float = Field(default=600.0, gt=0, description="a warm recipe process ends after this long unused")
    data_again_s: float = Field(default=15.0, gt=0, description="changed data files are read again at most this often")
    watch_log_s: float = Field(default=300.0, ge=1, description="how often the transparency log is looked at, at least")
    model_cache_bytes: int = Field(default=2 * 2**30, ge=0)
    otel_endpoint: str | None = Field(default=None, description="spans go there: http://collector:4318 or file:/folder")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def high_water(self) -> Path:
        """The file that tells whether the state folder is older than what was sent."""
        return self.high_water_file or self.data_dir.with_name("high-water")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the library names the arguments)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file."""
        return env_settings, init_settings


def load(config: Path) -> AgentSettings:
    """Read `agent.yaml` and the environment; ConfigError with one line per fault."""
    raw: Any = {}
    if config.exists():
        try:
            raw = load_document(config.read_text()) or {}
        except (NotYaml, UnicodeDecodeError) as error:
            raise ConfigError(f"{config}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{config}: a mapping of settings is expected")
    try:
        settings = _resolved(AgentSettings(**raw), config.resolve().parent)
    except ValidationError as error:
        raise ConfigError(explain(config, error, AgentSettings)) from error
    _check_names(config, settings)
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise ConfigError(f"{config}: ca_file: there is no file {settings.ca_file}; the platform's operator has it")
    return settings


def explain(path: Path, error: ValidationError, form: type[BaseModel]) -> str:
    """Return one line per fault: file, place, what is wrong, and what a misspelt name was probably meant to be."""
    return "\n".join(
        f"{path}: {fault.path.lstrip('/').replace('/', '.') or '(file)'}: {fault.message}"
        for fault in document_faults(error, form)
    )


def _check_names(config: Path, settings: AgentSettings) -> None:
    """Raise ConfigError where a file's or a setting's name is a misspelling of one that is there."""
    prefix = str(AgentSettings.model_config["env_prefix"])
    faults = environment_faults(os.environ, prefix, set(AgentSettings.model_fields))
    named = {"datasets": [settings.datasets], "policy": [settings.policy], "recipes": settings.recipes}
    named["recipe_reads"] = settings.recipe_reads
    faults += [f"{name}: {fault}" for name, paths in named.items() for path in paths if (fault := path_fault(path))]
    if faults:
        raise ConfigError("\n".join(f"{config}: {fault}" for fault in faults))


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
            "docker": settings.docker.model_copy(update={"mounts": mounts}),
        }
    )
