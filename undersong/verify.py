"""Checking a round or a model version: offline over a file of evidence, or over what the platform gives now.

The checks themselves are `undersong.shared.transparency.audit`; the file's format is in docs/verification.md.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from undersong.client import Client
from undersong.errors import UndersongError
from undersong.shared.errors import Refusal
from undersong.shared.files import read_input
from undersong.shared.transparency.audit import CheckResult, audit, audit_file, fingerprint_of, holds, service_key
from undersong.shared.transparency.evidence import Evidence, EvidenceUnreadable
from undersong.shared.transparency.records import check_consistency, check_head

SUBJECT_IDS: Final = ("rnd_", "ver_")
"""How the ids of what evidence can be about begin."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and what was found. `authority`: the fingerprint that the evidence itself claims."""

    subject: str
    authority: str | None
    title: str
    findings: list[CheckResult]

    @property
    def verified(self) -> bool:
        """Whether every check passed."""
        return holds(self.findings)

    def document(self) -> dict[str, Any]:
        """For scripts."""
        checks = [asdict(finding) for finding in self.findings]
        return {"subject": self.subject, "verified": self.verified, "authority": self.authority, "checks": checks}


def verify_file(subject: str, file: Path, ca_fingerprint: str | None) -> Verification:
    """Check a file of evidence; no network, no clock, no other file is used. Raises OSError.

    Names are known to the platform alone: UndersongError where `subject` is no round's or version's id.
    """
    data = read_input(file)
    if not subject.startswith(SUBJECT_IDS):
        raise UndersongError(f"{subject!r} is a name, and without the platform only an id can be checked{_about(data)}")
    findings = audit_file(data, ca_fingerprint, subject)
    try:
        evidence = Evidence.unpack(data)
    except EvidenceUnreadable:
        return Verification(subject, None, "", findings)
    return Verification(subject, fingerprint_of(evidence), title_of(evidence), findings)


def _about(data: bytes) -> str:
    """Return what a file of evidence says that it is about, as the end of a message; empty where it says nothing."""
    try:
        subject = Evidence.unpack(data).subject
    except EvidenceUnreadable:
        return ""
    return f"; the file says that it is about {subject}"


def verify_now(subject: str, client: Client, ca_fingerprint: str | None) -> Verification:
    """Collect the evidence and check it, and that the log which the keys service shows now goes on from the one in it.

    Without a fingerprint the authority that the keys service names is trusted: that shows mistakes, not a dishonest
    platform.
    """
    evidence = client.evidence(subject)
    pinned = ca_fingerprint or client.authority().fingerprint
    findings = [*audit(evidence, pinned, subject), _log_now(client, evidence)]
    if ca_fingerprint is None:
        findings = [_doubted(finding) for finding in findings]
    return Verification(subject, fingerprint_of(evidence), title_of(evidence), findings)


def title_of(evidence: Evidence) -> str:
    """Return the round in a few words."""
    plan = evidence.logged.record.manifest.manifest
    return f"{plan.kind} round {plan.number} of {plan.job_id}, engine {plan.engine}"


def _doubted(finding: CheckResult) -> CheckResult:
    if finding.check != "authority" or not finding.passed:
        return finding
    sentence = finding.sentence.replace("the one that was pinned", "the one that the platform itself names")
    return CheckResult(finding.check, True, f"{sentence} Compare it, then pin it with --ca.", caution=True)


def _log_now(client: Client, evidence: Evidence) -> CheckResult:
    """Return whether the log's present head is a continuation of the head in the evidence."""
    old, new = evidence.logged.head, client.log_head()
    try:
        check_head(new, service_key(evidence, new.keyid, "keys"))
        proof = client.consistency_proof(old.size, new.size) if 0 < old.size < new.size else None
        check_consistency(old, new, proof)
    except Refusal as refusal:
        return CheckResult("log-now", False, f"The keys service now shows another log: {refusal.detail}.")
    return CheckResult("log-now", True, f"The log of the keys service ({new.size:,} entries) goes on from that head.")
