"""One site's folder: agent.yaml, datasets.yaml, policy.yaml, the enrolment token and the agent's state."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undersong.errors import UndersongError
from undersong.shared.files import read_bytes, read_text
from undersong.shared.identity.transport import CA_FILE
from undersong.shared.yaml_texts import dump_document, load_document


class SiteFolder:
    """Files of one agent under one folder; its name is the folder's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.config = path / "agent.yaml"

    def command(self) -> list[str]:
        """Return how the agent is started."""
        return [sys.executable, "-m", "undersong.services.agent", "--config", str(self.config)]

    def write(
        self,
        urls: Mapping[str, str],
        *,
        token: str,
        datasets: Mapping[str, Any] | Path | None = None,
        policy: Mapping[str, Any] | Path | None = None,
        agent: Mapping[str, Any] | None = None,
        ca_file: str = "",
    ) -> None:
        """Write every file that the agent needs to enrol and run; `ca_file` is copied, for it may go elsewhere."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write_token(token)
        (self.path / ".gitignore").write_text("*\n")  # data, keys and tokens of a site belong into no repository
        if datasets is not None:
            declared = _movable(datasets) if isinstance(datasets, Path) else datasets
            (self.path / "datasets.yaml").write_text(_yaml(declared))
        if isinstance(policy, Path):
            (self.path / "policy.yaml").write_bytes(read_bytes(policy))
        elif policy is not None:
            (self.path / "policy.yaml").write_text(_yaml(policy))
        settings = {
            "data_dir": "state",
            "enrol_token_file": "enrol-token",
            **self._addresses(urls, ca_file),
            **(agent or {}),
        }
        self.config.write_text(_yaml(settings))

    def write_token(self, token: str) -> None:
        """Put a single-use enrolment token where the agent looks for one."""
        write_private(self.path / "enrol-token", token)

    def write_addresses(self, urls: Mapping[str, str], ca_file: str = "") -> None:
        """Point an existing agent at the services' present addresses."""
        settings = load_document(read_text(self.config))
        self.config.write_text(_yaml({**settings, **self._addresses(urls, ca_file)}))

    def _addresses(self, urls: Mapping[str, str], ca_file: str) -> dict[str, str]:
        addresses = {f"{service}_url": url for service, url in urls.items()}
        if not ca_file:
            return addresses
        (self.path / CA_FILE).write_bytes(read_bytes(Path(ca_file)))
        return {**addresses, "ca_file": CA_FILE}


def existing_sites(home: Path) -> list[SiteFolder]:
    """Return the sites of an earlier run in this home."""
    return [SiteFolder(path.parent) for path in sorted((home / "sites").glob("*/agent.yaml"))]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    write_private_bytes(path, text.encode())


def write_private_bytes(path: Path, content: bytes) -> None:
    """Write the same of bytes."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _movable(datasets: Path) -> Mapping[str, Any]:
    from undersong.recipes.datasets import BadDataset, movable_document  # brings numpy, which no other command needs

    try:
        return movable_document(datasets)
    except BadDataset as refusal:
        raise UndersongError(refusal.explain(), remedy=f"correct {datasets}; docs/data.md has every option") from None


def _yaml(document: Mapping[str, Any]) -> str:
    return dump_document(dict(document))
