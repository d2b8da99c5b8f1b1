"""A downloaded version beside its evidence: loaded without network, by the same checks."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from undersong.client.loaded import LoadedModel, checked
from undersong.errors import UndersongError
from undersong.shared.files import read_bytes
from undersong.shared.transparency.evidence import MAX_BYTES, Evidence, EvidenceUnreadable

SUFFIX: Final = ".evidence.json"
MOST: Final = 100
"""Files of evidence in a folder that are looked at."""


def load_file(
    file: Path, *, evidence: Path | None = None, ca: str | None = None, recipes: Sequence[Path] = ()
) -> LoadedModel:
    """Return a version ready to predict from its file (`undersong model pull`) and evidence (`undersong evidence`).

    evidence: by default the file beside it that is about this content: NAME.evidence.json of NAME.safetensors, or
    another *.evidence.json in its folder. ca: SHA-256 fingerprint of the federation's authority, from elsewhere;
    without it nothing is proved, and the version is refused. recipes: as in `Client.load_model`. Raises UndersongError
    and OSError.
    """
    content = read_bytes(file)
    digest = hashlib.sha256(content).hexdigest()
    found = _read(evidence) if evidence is not None else _beside(file, digest)
    version_id = found.logged.record.result.version_id
    if version_id is None:
        said = f"the evidence is about {found.subject}, which made no version"
        raise UndersongError(said, remedy="undersong evidence MODEL@ALIAS writes that of a version")
    if ca is None:
        said = f"nothing proves that {file.name} is a version of your federation"
        raise UndersongError(said, remedy="--ca FINGERPRINT, that of its authority, which you know from elsewhere")
    return checked(content, found, version_id, ca, recipes)


def _read(path: Path) -> Evidence:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UndersongError(f"{path} is no evidence: it is larger than {MAX_BYTES >> 20} MiB")
    try:
        return Evidence.unpack(path.read_bytes())
    except EvidenceUnreadable as error:
        remedy = "undersong evidence MODEL@ALIAS writes it anew"
        raise UndersongError(f"{path} is no evidence: {error.detail}", remedy=remedy) from error


def _beside(file: Path, digest: str) -> Evidence:
    """Return the evidence beside a file: of the same name, else the first in the folder that is about its content."""
    same = file.with_name(f"{file.stem}{SUFFIX}")
    if same.is_file():
        return _read(same)
    for path in sorted(file.parent.glob(f"*{SUFFIX}"))[:MOST]:
        if path.is_file() and digest.encode() in path.read_bytes():
            found = _read(path)
            if found.logged.record.result.content_digest == digest:
                return found
    said = f"there is no evidence of {file.name} beside it"
    raise UndersongError(said, remedy=f"undersong evidence VERSION --out {same.name}, or --evidence FILE")
