"""The auditor: whole bundles pass every check, and whatever is changed in one fails a check that has a name."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.transparency.bundles import Federation
from tests.shared.transparency.sheets import terms
from undersong.shared.identity.authority import CertificateUntrusted
from undersong.shared.secagg.private import plan_noisy
from undersong.shared.transparency.audit import CheckResult, audit, audit_file, fingerprint_of, holds
from undersong.shared.transparency.certificates import read_certificate
from undersong.shared.transparency.collecting import NoRecord, collect
from undersong.shared.transparency.documents import LoggedRecord
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.wire.privacy import AdaptiveClip

FEDERATION = Federation()
WITNESS_MODE = Federation(quorum=False)
KINDS = [
    ("train", "pairwise"),
    ("statistics", "pairwise"),
    ("evaluate", "pairwise"),
    ("train", "sealed"),
    ("initialise", "sealed"),
    ("train", "twoserver"),
]
BUNDLES = {kind: FEDERATION.bundle(*kind) for kind in KINDS}
FILES = {kind: bundle.pack() for kind, bundle in BUNDLES.items()}


def failed(findings: list[CheckResult]) -> list[str]:
    return [finding.check for finding in findings if not finding.passed]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_bundle_passes_every_check(kind: tuple[str, str]) -> None:
    findings = audit_file(FILES[kind], FEDERATION.fingerprint, f"rnd_{kind[0]}")
    assert failed(findings) == []
    assert holds(findings)
    assert all(finding.sentence.endswith((".", "…")) for finding in findings)


def test_names_of_the_checks() -> None:
    names = [finding.check for finding in audit_file(FILES["train", "pairwise"], FEDERATION.fingerprint)]
    assert names == [
        "file", "subject", "authority", "certificates", "manifest", "cohort", "protection", "roster", "survivors",
        "bodies", "uploads", "commitments", "samples", "transcript", "sum", "result", "lineage", "parents", "log-head",
        "inclusion",
    ]  # fmt: skip


def test_witness_mode_passes() -> None:
    assert failed(audit(WITNESS_MODE.bundle(), WITNESS_MODE.fingerprint)) == []


def test_a_sealed_round_says_that_the_aggregator_could_see_updates() -> None:
    findings = audit(BUNDLES["train", "sealed"], FEDERATION.fingerprint)
    (protection,) = [finding for finding in findings if finding.check == "protection"]
    assert protection.passed
    assert protection.caution
    assert "aggregator could see every single update" in protection.sentence


def test_a_plan_that_names_no_proved_norm_is_refused() -> None:
    bundle = BUNDLES["train", "twoserver"]
    record = bundle.logged.record
    plan = record.manifest.manifest
    assert plan.encoding is not None
    bare = FEDERATION.signed(plan.model_copy(update={"encoding": plan.encoding.model_copy(update={"clip_norm": None})}))
    logged = FEDERATION.logged(record.model_copy(update={"manifest": bare}))
    found = failed(audit(bundle.model_copy(update={"logged": logged}), FEDERATION.fingerprint))
    assert found == ["protection", "helper", "transcript", "sum"]


def adaptive(norm: float, said: Mapping[str, float | str] | None, parent: dict[str, float] | None) -> Evidence:
    """A training round whose clip norm moves: what its manifest, its version and the version before say of it."""
    asked = terms("distributed", min_sites=3, adaptive_clip=AdaptiveClip(quantile=0.5, rate=0.2, start=4.0))
    bundle = FEDERATION.bundle("train", "pairwise", ancestors=1 if parent is None else 2)
    plan, before = bundle.logged.record.manifest.manifest, list(bundle.versions[1:])
    if parent is not None:
        old = FEDERATION.manifest("train", "sealed", before[1]).manifest
        before[0] = FEDERATION.version(1, old, 5, clipping=parent)
    encoding = plan_noisy(summands=5, clip_norm=norm, modulus_bits=32, terms=asked)
    signed = FEDERATION.signed(plan.model_copy(update={"encoding": encoding, "privacy": asked}))
    more = {} if said is None else {"clipping": said}
    made = FEDERATION.version(9, signed.manifest, 4, privacy=asked.model_dump(mode="json"), **more)
    record = FEDERATION.record(signed, (0, 1, 2, 4), {"version_id": made.id, "content_digest": made.content_digest})
    return bundle.model_copy(update={"logged": FEDERATION.logged(record), "versions": (made, *before)})


def moved(norm: float, within: float) -> dict[str, float]:
    return {"norm": norm, "within": within, "next": norm * math.exp(-0.2 * (within - 0.5))}


@pytest.mark.parametrize(
    ("norm", "said", "parent", "holds"),
    [
        (4.0, moved(4.0, 0.75), None, True),
        (5.0, moved(5.0, 0.75), moved(5.0 / math.exp(0.1), 0.0), True),
        (4.5, moved(4.5, 0.75), None, False),
        (4.0, moved(4.0, 0.75), moved(4.0, 0.75), False),
        (4.0, moved(4.1, 0.75), None, False),
        (4.0, {**moved(4.0, 0.75), "next": 3.0}, None, False),
        (4.0, {**moved(4.0, 0.75), "within": -1e9}, None, False),
        (4.0, {**moved(4.0, 0.75), "within": "much"}, None, False),
        (4.0, None, None, False),
    ],
)
def test_a_clip_norm_follows_from_the_round_before(
    norm: float, said: Mapping[str, float | str] | None, parent: dict[str, float] | None, holds: bool
) -> None:
    found = failed(audit(adaptive(norm, said, parent), FEDERATION.fingerprint))
    assert found == ([] if holds else ["result"])


def test_without_a_pinned_authority_nothing_is_proved() -> None:
    bundle = BUNDLES["train", "pairwise"]
    assert failed(audit(bundle, None)) == ["authority"]
    assert failed(audit(bundle, WITNESS_MODE.fingerprint)) == ["authority"]
    assert fingerprint_of(bundle) == FEDERATION.fingerprint
    shown = ":".join(FEDERATION.fingerprint.upper()[i : i + 2] for i in range(0, 64, 2))
    assert failed(audit(bundle, shown)) == []


def test_evidence_about_something_else_is_not_taken() -> None:
    assert failed(audit(BUNDLES["train", "pairwise"], FEDERATION.fingerprint, "rnd_other")) == ["subject"]
    assert failed(audit(BUNDLES["train", "pairwise"], FEDERATION.fingerprint, "ver_2")) == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_any_changed_byte_fails(kind: tuple[str, str], data: st.DataObject) -> None:
    file = bytearray(FILES[kind])
    place = data.draw(st.integers(0, len(file) - 1))
    file[place] ^= data.draw(st.integers(1, 255))
    assert failed(audit_file(bytes(file), FEDERATION.fingerprint))


def test_a_certificate_has_one_form() -> None:
    """The number of unused bits of a signature is covered by no signature."""
    for _ in range(40):
        bundle = Federation().bundle("evaluate", "pairwise", ancestors=1)
        even = [each for each in bundle.certificates if bytes.fromhex(each)[-1] % 2 == 0]
        if even:
            break
    octets = bytearray.fromhex(even[0])
    octets[-65] = 1
    changed = bundle.model_copy(
        update={"certificates": tuple(sorted({*bundle.certificates, octets.hex()} - {even[0]}))}
    )
    with pytest.raises(CertificateUntrusted, match="one form"):
        read_certificate(octets.hex())
    assert "certificates" in failed(audit(changed, fingerprint_of(bundle)))


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def altered(value: Any, place: int) -> Any:
    """A value of the same form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value:
        place %= len(value)
        other = "0" if value[place] != "0" else "1"
        return value[:place] + other + value[place + 1 :]
    return "a" if value in (None, "") else None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_any_changed_value_fails_a_check_beyond_the_file(kind: tuple[str, str], data: st.DataObject) -> None:
    """Written again in the one form, so that only what the checks know of the content can find it."""
    document = json.loads(FILES[kind])
    path = data.draw(st.sampled_from(list(leaves(document))))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = altered(inner[path[-1]], data.draw(st.integers(0, 4000)))
    try:
        changed = Evidence.model_validate(document)
    except ValueError:
        return
    assert failed(audit(changed, FEDERATION.fingerprint)), path


def test_every_certificate_and_the_authority_count_bit_by_bit() -> None:
    bundle = BUNDLES["statistics", "pairwise"]
    for position, item in enumerate(bundle.certificates):
        raw = bytearray.fromhex(item)
        for place in range(0, len(raw), 7):
            raw[place] ^= 1 << place % 8
            changed = (*bundle.certificates[:position], raw.hex(), *bundle.certificates[position + 1 :])
            assert failed(audit(bundle.model_copy(update={"certificates": changed}), FEDERATION.fingerprint))
            raw[place] ^= 1 << place % 8
    raw = bytearray.fromhex(bundle.authority)
    for place in range(len(raw)):
        raw[place] ^= 1 << place % 8
        assert "authority" in failed(audit(bundle.model_copy(update={"authority": raw.hex()}), FEDERATION.fingerprint))
        raw[place] ^= 1 << place % 8


def _without(bundle: Evidence, names: list[str]) -> Evidence:
    gone = set(FEDERATION.certificates(names))
    return bundle.model_copy(update={"certificates": tuple(each for each in bundle.certificates if each not in gone)})


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("coordinator", "manifest"),
        ("keys", "roster"),
        ("aggregator", "lineage"),
        ("registry", "lineage"),
        ("site_3", "certificates"),
    ],
)
def test_a_missing_certificate_is_named(name: str, check: str) -> None:
    assert check in failed(audit(_without(BUNDLES["train", "pairwise"], [name]), FEDERATION.fingerprint))


def test_what_each_lie_is_found_by() -> None:
    bundle = BUNDLES["train", "pairwise"]
    record = bundle.logged.record

    def with_record(**changes: Any) -> list[str]:
        logged = FEDERATION.logged(record.model_copy(update=changes))  # keys plays along: its log holds the lie
        return failed(audit(bundle.model_copy(update={"logged": logged}), FEDERATION.fingerprint))

    assert with_record() == []
    assert with_record(sum_digest="6" * 64) == ["transcript", "sum"]
    assert with_record(transcript="6" * 64) == ["transcript", "sum"]
    assert with_record(bodies={**record.bodies, "site_0": "6" * 64}) == ["bodies", "uploads"]
    fewer = {site: digest for site, digest in record.bodies.items() if site in {"site_0", "site_1"}}
    assert set(with_record(bodies=fewer, contributors=2)) == {
        "cohort", "survivors", "bodies", "uploads", "commitments", "samples", "result",
    }  # fmt: skip
    signed = record.upload_signatures
    assert with_record(upload_signatures={}) == ["uploads"], "as records were before uploads were signed"
    assert with_record(upload_signatures={s: signed[s] for s in signed if s != "site_1"}) == ["uploads"]
    assert with_record(upload_signatures={**signed, "site_1": signed["site_0"]}) == ["uploads"]
    assert with_record(upload_signatures={**signed, "site_3": signed["site_0"]}) == ["uploads"], "no survivor"
    exchanged = {**record.samples, "site_2": record.samples["site_1"]}
    assert with_record(samples=exchanged) == ["samples"]
    assert with_record(sample_proofs={**record.sample_proofs, "site_0": record.sample_proofs["site_1"]}) == ["samples"]
    assert with_record(samples={}, sample_proofs={}) == []  # said aloud instead: a record from before there were any
    assert with_record(commitments={}) == ["commitments"]
    assert with_record(engine="sealed") == ["cohort", "protection", "transcript", "sum"]
    assert "roster" in with_record(roster=None)
    stranger = Federation()
    assert "roster" in failed(audit(_forged(bundle, stranger), FEDERATION.fingerprint))


def _forged(bundle: Evidence, stranger: Federation) -> Evidence:
    record = stranger.bundle().logged.record
    return bundle.model_copy(update={"logged": FEDERATION.logged(record)})


def test_a_version_promises_no_noise_that_its_round_did_not_have() -> None:
    """Signed by publisher and registry, and still refused: the manifest says what the round promised."""
    bundle = BUNDLES["train", "pairwise"]
    plan, promised = bundle.logged.record.manifest.manifest, terms().model_dump(mode="json")
    boast = FEDERATION.version(2, plan, 4, privacy=promised)
    assert boast.id == bundle.versions[0].id
    changed = bundle.model_copy(update={"versions": (boast, *bundle.versions[1:])})
    assert failed(audit(changed, FEDERATION.fingerprint)) == ["result"]


def test_a_line_of_parents_has_no_holes_and_nothing_extra() -> None:
    bundle = BUNDLES["train", "pairwise"]
    hole = bundle.model_copy(update={"versions": bundle.versions[:-1]})
    assert failed(audit(hole, FEDERATION.fingerprint)) == ["parents"]
    strange = Federation().lineage(1)[0].model_copy(update={"id": "ver_9"})
    extra = bundle.model_copy(update={"versions": (*bundle.versions, strange)})
    assert failed(audit(extra, FEDERATION.fingerprint)) == ["lineage", "parents"]


@pytest.mark.parametrize("junk", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"format": NaN}', b"1" * 10_000])
def test_junk_is_one_failed_check(junk: bytes) -> None:
    assert failed(audit_file(junk, FEDERATION.fingerprint)) == ["file"]


class Shelf:
    """All parts of a federation, as the services would give them."""

    def __init__(self, federation: Federation, bundle: Evidence) -> None:
        self.federation, self.bundle = federation, bundle

    def pem(self, name: str) -> str:
        return self.federation.identities[name].certificate.public_bytes(Encoding.PEM).decode()

    async def authority(self) -> str:
        return self.federation.ca.certificate.public_bytes(Encoding.PEM).decode()

    async def logged(self, round_id: str) -> LoggedRecord:
        assert round_id == self.bundle.logged.record.round_id
        return self.bundle.logged

    async def version(self, version_id: str) -> dict[str, Any]:
        (found,) = [each for each in self.bundle.versions if each.id == version_id]
        return {**found.model_dump(mode="json"), "number": 3, "tensor_digest": "0" * 64}

    async def certificate(self, keyid: str) -> str:
        (name,) = [name for name, who in self.federation.identities.items() if who.keyid == keyid]
        return self.pem(name)

    async def certificates(self, name: str) -> list[str]:
        other = self.federation.identity(self.federation.identities[name].subject)  # rotated since
        return [other.certificate.public_bytes(Encoding.PEM).decode(), self.pem(name)]


@pytest.mark.parametrize("kind", KINDS)
async def test_collecting_makes_the_same_bundle(kind: tuple[str, str]) -> None:
    bundle = BUNDLES[kind]
    assert await collect(bundle.subject, Shelf(FEDERATION, bundle)) == bundle
    made = bundle.logged.record.result.version_id
    if made is not None:
        found = await collect(made, Shelf(FEDERATION, bundle))
        assert found.subject == made
        assert failed(audit(found, FEDERATION.fingerprint, made)) == []


async def test_an_imported_version_has_no_round() -> None:
    bundle = BUNDLES["initialise", "sealed"]
    lineage = {"kind": "import", "parents": []}
    brought = bundle.model_copy(update={"versions": (bundle.versions[0].model_copy(update={"lineage": lineage}),)})
    with pytest.raises(NoRecord, match="brought in from outside"):
        await collect(bundle.versions[0].id, Shelf(FEDERATION, brought))
