"""Requests about models and their versions."""

from collections.abc import Mapping
from typing import Any

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted


def models(federation_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Model]]:
    """Models."""
    return get("registry", "/models", t.Page[t.Model], federation_id=federation_id, after=after)


def model(model_id: str) -> Call[t.Model]:
    """Return one model with its aliases."""
    return get("registry", f"/models/{quoted(model_id)}", t.Model)


def versions(model_id: str, after: str | None = None) -> Call[t.Page[t.Version]]:
    """Return the versions of a model, oldest first."""
    return get("registry", f"/models/{quoted(model_id)}/versions", t.Page[t.Version], after=after)


def version(version_id: str) -> Call[t.Version]:
    """Return one version with lineage and signatures."""
    return get("registry", f"/versions/{quoted(version_id)}", t.Version)


def add_audit(version_id: str, document: Mapping[str, Any]) -> Call[t.Version]:
    """Add what a privacy audit found to a version."""
    return post("registry", f"/versions/{quoted(version_id)}/audits", t.Version, document)


def stop_for_claim(job_id: str, version_id: str) -> Call[t.Job]:
    """Pause a job of which an audit refuted a version's privacy claim."""
    return post("coordinator", f"/jobs/{quoted(job_id)}/broken-claim", t.Job, {"version_id": version_id})


def alias_changes(model_id: str, after: str | None = None) -> Call[t.Page[t.AliasChange]]:
    """Return who moved a model's aliases, newest first."""
    return get("registry", f"/models/{quoted(model_id)}/alias-changes", t.Page[t.AliasChange], after=after)


def set_alias(model_id: str, alias: str, version_id: str, reason: str = "") -> Call[dict[str, Any]]:
    """Point a model's alias (champion, candidate, …) at a version."""
    path = f"/models/{quoted(model_id)}/aliases/{quoted(alias)}"
    return Call(
        "registry",
        "PUT",
        path,
        dict[str, Any],
        body={"version_id": version_id} | ({"reason": reason} if reason else {}),
    )
