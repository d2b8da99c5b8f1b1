"""`undersong serve`."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from undersong.cli import common
from undersong.cli.lookup import find_version
from undersong.cli.predictions import MODEL_FILE, Evidence, Fingerprint, Subject
from undersong.errors import UndersongError
from undersong.shared.errors import Refusal

_PORT = 7006


def serve(
    model: Subject,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Loopback port; 0 for a free one.")] = _PORT,
    evidence: Evidence = None,
    ca: Fingerprint = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", exists=True, dir_okay=False, help="Source of a recipe of your own.")
    ] = None,
    profile: common.ProfileName = None,
) -> None:
    """Answer predictions of a model version over REST on this machine, until Ctrl-C; docs/serving.md has more.

    Evidence and file are checked first. Every program of this machine may ask; to serve others, run the inference
    service.
    """
    from undersong.services.inference.serving import load_version
    from undersong.services.inference.settings import InferenceSettings
    from undersong.services.inference.wiring import build_app
    from undersong.shared.telemetry.logs import configure_logging
    from undersong.shared.web.server import serve as listen

    with tempfile.TemporaryDirectory() as folder:
        settings = InferenceSettings(
            **_files(model, evidence, ca, profile, Path(folder)),
            recipe_file=recipe,
            token_file=None,
            version=None,
            host="127.0.0.1",
            port=port,
        )
        try:
            version = load_version(settings)
        except Refusal as refusal:
            raise UndersongError(refusal.detail) from refusal
    common.console.print(f"verified {version.evidence.id}: all {len(version.checks)} checks passed", markup=False)
    where = f"http://127.0.0.1:{port}" if port else "the port that the log names"
    common.next_step(f"POST /v1/predictions at {where}; GET /v1/model says what a row has; Ctrl-C ends it")
    configure_logging("inference", "INFO" if port == 0 else "WARNING", json=False)
    listen(build_app(settings, version), settings.host, settings.port, limits=settings.limits)


def _files(model: str, evidence: Path | None, ca: str | None, profile: str | None, folder: Path) -> dict[str, Any]:
    """Return the settings that name the files of a version: those given, else fetched from the platform."""
    path = Path(model)
    if path.suffix == MODEL_FILE or path.is_file():
        beside = evidence or path.with_name(f"{path.stem}.evidence.json")
        if ca is None:
            said = f"nothing proves that {path.name} is a version of your federation"
            raise UndersongError(said, remedy="--ca FINGERPRINT, that of its authority, which you know from elsewhere")
        return {"model_file": path, "evidence_file": beside, "ca_fingerprint": ca}
    if evidence is not None:
        raise UndersongError(f"{model} is no file, and --evidence is that of a pulled file", remedy="leave it out")
    target, proof = folder / "model.safetensors", folder / "evidence.json"
    with common.connect(profile) as client:
        _, found = find_version(client, model)
        client.download(found.id, target)
        proof.write_bytes(client.evidence(found.id).pack())
        pinned = ca or client.authority().fingerprint
    if ca is None:
        said = f"authority {pinned} is the one that the platform itself names: compare it, then pin it with --ca"
        common.complaints.print(said, markup=False)
    return {"model_file": target, "evidence_file": proof, "ca_fingerprint": pinned}
