"""Datasheets of small lines of rounds."""

from typing import Any

from tests.shared.transparency.bundles import NOW
from tests.shared.wire.manifests import DIGEST, manifest
from undersong.shared.secagg.private import plan_noisy
from undersong.shared.transparency.datasheet import Datasheet, SheetSubject
from undersong.shared.transparency.datasheet_making import SheetFacts, make_datasheet
from undersong.shared.transparency.releases import Release
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.privacy import PrivacyTerms

SUBJECT = SheetSubject(
    version_id="ver_2", model_id="mdl_1", model="heart <b>", number=2, federation_id="fed_1", content_digest=DIGEST,
    parents=("ver_1",), job_id="job_1", job="heart disease", round_id="rnd_2",
)  # fmt: skip


def terms(model: str = "distributed", **changes: Any) -> PrivacyTerms:
    document = {"model": model, "unit": "site", "noise_multiplier": 5.0, "delta": 1e-6, "epsilon": 4.0, "rounds": 10,
                "min_sites": 2, "colluding": 0, **changes}  # fmt: skip
    return PrivacyTerms.model_validate(document)


def noisy(
    model: str = "distributed", engine: str = "pairwise", job: str = "job_1", clip_norm: float = 1.0, **changes: Any
) -> Release:
    promised = terms(model, **changes)
    encoding = plan_noisy(summands=3, clip_norm=clip_norm, modulus_bits=32, terms=promised)
    return Release(manifest(engine=engine, privacy=promised, encoding=encoding, job_id=job), 3, 1000)


def exact(kind: RoundKind, contributors: int | None = 3) -> Release:
    return Release(manifest(kind), contributors, 1000)


def sheet(*releases: Release, **changes: Any) -> Datasheet:
    promised = next((each.manifest.privacy for each in releases if each.manifest.privacy is not None), None)
    return make_datasheet(SheetFacts(SUBJECT, releases, promised, **changes), NOW)
