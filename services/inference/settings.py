"""What the inference service can be told by its environment (``INFERENCE_…``)."""

import ipaddress
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from undersong.shared.web.settings import EdgeSettings, settings_config


class InferenceSettings(EdgeSettings):
    """Beside what every HTTP edge has. The service has no database and no identity, and makes no request."""

    model_config = settings_config("inference")

    port: int = Field(7006, description="Port that is listened on")
    model_file: Path = Field(
        Path("model.safetensors"), description="The version's file, as `undersong model pull` writes it"
    )
    evidence_file: Path = Field(
        Path("evidence.json"), description="The version's evidence, as `undersong evidence` writes it"
    )
    ca_fingerprint: str | None = Field(
        None, description="SHA-256 fingerprint of the federation's authority, from elsewhere than the evidence; needed"
    )
    version: str | None = Field(
        None, description="Id of the version that must be served; none: the one of the evidence"
    )
    recipe_file: Path | None = Field(
        None, description="File of the version's recipe, where that is not built in; its code runs in this process"
    )
    token_file: Path | None = Field(
        None,
        validate_default=True,
        description="File of bearer tokens, one a line, that may ask; none: all who reach the port may, and the "
        "service listens on loopback addresses only",
    )
    rate_per_s: float = Field(0.0, ge=0, description="Requests in a second of one token; 0: no limit")
    max_body_bytes: int = Field(1 << 20, ge=1 << 10, description="Largest body of a request in bytes")
    max_rows: int = Field(1000, ge=1, description="Most rows of a request")
    batch_rows: int = Field(256, ge=1, description="Rows of waiting requests that are predicted together")
    queued_rows: int = Field(
        10_000, ge=1, description="Most rows that wait for a prediction; further requests are answered with 429"
    )
    queued_requests: int = Field(1000, ge=1, description="Most requests that wait for a prediction, likewise")
    drift_block_rows: int = Field(
        100, ge=1, description="Rows after which counts for drift are shown: those of fewer rows are held back"
    )

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self.token_file is None

    @field_validator("token_file")
    @classmethod
    def _is_closed_to_others(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        host = str(info.data.get("host", ""))
        if path is None and not is_loopback(host):
            raise ValueError(f"a service that listens on {host} needs a file of tokens: others reach it")
        return path


def is_loopback(host: str) -> bool:
    """Return whether an address or name is this machine's own; a name other than localhost is not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
