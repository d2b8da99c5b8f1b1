"""What the client does with models and their versions.

Generated from `aio/models.py` by `make client`: change that file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import httpx

from undersong.client import naming, wire
from undersong.client import types as t
from undersong.client.calls import models as calls
from undersong.client.loaded import LoadedModel, loaded
from undersong.client.sync.download import download
from undersong.client.sync.evidence import EvidenceMethods


class ModelMethods(EvidenceMethods):
    """Methods about models and their versions."""

    def models(self, federation_id: str | None = None) -> list[t.Model]:
        """Return every model of one federation, or of all that the caller may see, oldest first."""
        return self.all(lambda after: calls.models(federation_id, after))

    def model(self, name: str) -> t.Model:
        """Return one model with its aliases, by id or name; UndersongError with near matches where no one fits."""
        if name.startswith(naming.MODEL_PREFIX):
            return self.send(calls.model(name))
        return naming.one_named(self.models(), name, "model", "undersong model list")

    def find_version(self, name: str) -> t.Version:
        """Return a version by its id, or by its model's: "heart@champion", "heart:3"; "heart" is the newest."""
        if name.startswith(naming.VERSION_PREFIX):
            return self.version(name)
        model_name, wanted = naming.parts_of(name)
        model = self.model(model_name)
        return naming.one_version(model, self.versions(model.id), wanted)

    def load_model(self, name: str, *, ca: str | None = None, recipes: Sequence[Path] = ()) -> LoadedModel:
        """Return a version ready to predict; `name` as in `find_version`.

        The version's evidence must verify, and its file must be the one that was signed. ca: SHA-256 fingerprint of the
        federation's authority, from elsewhere; without it, the authority that the keys service names is trusted.
        recipes: files of own recipes, which are imported, and so run. Raises UndersongError.
        """
        version = self.find_version(name)
        evidence = self.evidence(version.id)
        pinned = ca or self.authority().fingerprint
        with TemporaryDirectory(prefix="undersong-load-") as folder:
            target = Path(folder) / "model"
            self.download(version.id, target)
            content = target.read_bytes()
        return loaded(content, evidence, version, pinned, recipes)

    def versions(self, model_id: str) -> list[t.Version]:
        """Return the versions of a model, oldest first."""
        return self.all(lambda after: calls.versions(model_id, after))

    def version(self, version_id: str) -> t.Version:
        """Return one version with its lineage and metrics."""
        return self.send(calls.version(version_id))

    def add_audit(self, version_id: str, document: Mapping[str, Any]) -> t.Version:
        """Add what a privacy audit found to a version, and return it (scientist, owner or auditor)."""
        return self.send(calls.add_audit(version_id, document))

    def stop_for_claim(self, job_id: str, version_id: str) -> t.Job:
        """Pause a job of which an audit refuted this version's privacy claim (scientist, owner or auditor)."""
        return self.send(calls.stop_for_claim(job_id, version_id))

    def alias_changes(self, model_id: str) -> list[t.AliasChange]:
        """Return who moved a model's aliases, when and why, newest first."""
        return self.all(lambda after: calls.alias_changes(model_id, after))

    def set_alias(self, model_id: str, alias: str, version_id: str, reason: str = "") -> None:
        """Point a model's alias at a version; the reason goes to the audit trail. Idempotent."""
        self.send(calls.set_alias(model_id, alias, version_id, reason))

    def download(self, version_id: str, target: Path) -> str:
        """Stream a version's safetensors into a file and return its digest, which is checked before the file appears.

        A cut download continues where it stopped, in this call or the next.
        """
        expected = self.version(version_id).content_digest
        url = f"{wire.base_url(self.profile, 'registry')}/v1/versions/{quote(version_id, safe='')}/content"
        download(self._http, url, self.profile.token, expected, target)
        return expected

    def good_version(self, version_id: str) -> t.Version:
        """Return the version, or where its stored file is damaged, the latest earlier one of the model that is good."""
        url = f"{wire.base_url(self.profile, 'registry')}/v1/versions/{quote(version_id, safe='')}/content"
        headers = {"authorization": f"Bearer {self.profile.token}", "range": "bytes=0-0"}  # only its name is asked
        try:
            response = self._http.get(url, params={"fallback": "last-good"}, headers=headers)
        except httpx.TransportError as error:
            raise wire.unreachable(url, error) from error
        wire.raise_for_problem(response)
        return self.version(response.headers.get("undersong-version", version_id))
