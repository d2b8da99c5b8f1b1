"""What was checked, released and certified, as what the pages show. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from undersong.services.coordinator.auditing import AuditResult
from undersong.services.coordinator.dashboard.audit_views import (
    Audit,
    CheckItem,
    DatasheetPage,
    Exposure,
    JobExposure,
    Key,
    PrivacyAuditItem,
    SpentItem,
)
from undersong.services.coordinator.datasheets import JobAccount
from undersong.services.coordinator.peers.keys import CertificateFacts
from undersong.services.coordinator.views.jobs import JobView
from undersong.shared.ids import digest_of
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.datasheet_words import sections, title_of
from undersong.shared.transparency.releases import UnitCost, together


def audit(found: AuditResult) -> Audit:
    """Return the findings of an audit."""
    checks = tuple(
        CheckItem(item.check, "failed" if not item.passed else "caution" if item.caution else "passed", item.sentence)
        for item in found.findings
    )
    privacy = tuple(
        PrivacyAuditItem(item.document.kind, item.document.sentence, item.broken, item.recorded_by, item.recorded_at)
        for item in found.privacy
    )
    return Audit(found.round_id, found.version_id, found.pinned, checks, privacy)


def keys(found: Sequence[CertificateFacts], sites: Mapping[str, str]) -> tuple[Key, ...]:
    """Return the newest certificate of each service and of each of these sites, services first."""
    parties: dict[tuple[str, str], list[CertificateFacts]] = {}
    for item in found:
        if item.kind == "service" or item.name in sites:
            parties.setdefault((item.kind, item.name), []).append(item)
    made = []
    for (kind, name), items in parties.items():
        newest = max(items, key=lambda item: (item.not_before, item.not_after))
        key = Key(
            party=sites.get(name, name),
            kind=kind,
            keyid=newest.keyid,
            since=newest.not_before,
            until=newest.not_after,
            revoked_at=newest.revoked_at,
            earlier=len(items) - 1,
            subject=name,
        )
        made.append(key)
    return tuple(sorted(made, key=lambda key: (key.kind != "service", key.party)))


def exposures(jobs: Sequence[tuple[JobView, JobAccount]]) -> list[Exposure]:
    """Return what was released from each data set, and what it costs each unit together, over all its jobs.

    Computes: up to a second the first time.
    """
    found: dict[tuple[str, str], list[tuple[JobView, JobAccount]]] = {}
    for of_job, account in jobs:
        found.setdefault((of_job.federation_id, of_job.spec.data.dataset), []).append((of_job, account))
    return [
        Exposure(
            federation_id=federation_id,
            dataset=dataset,
            jobs=len(items),
            releases=sum(account.opened for _, account in items),
            smallest=min((account.smallest for _, account in items if account.smallest is not None), default=None),
            engines=tuple(sorted({engine for _, account in items for engine in account.engines})),
            exact=sum(account.exact for _, account in items),
            spent=spent(cost for _, account in items for cost in account.costs),
            by_job=tuple(
                JobExposure(of_job.id, of_job.name, spent(account.costs), account.exact)
                for of_job, account in items
                if account.opened
            ),
        )
        for (federation_id, dataset), items in sorted(found.items())
    ]


def spent(costs: Iterable[UnitCost]) -> tuple[SpentItem, ...]:
    """Return what noisy sums cost each unit. Computes."""
    return tuple(SpentItem(str(cost.unit), cost.releases, cost.epsilon, cost.delta) for cost in together(costs))


def datasheet(signed: SignedDatasheet) -> DatasheetPage:
    """Return a datasheet as its sections."""
    sheet = signed.datasheet
    keyid = digest_of(bytes.fromhex(signed.certificate))
    document = signed.model_dump_json(indent=2)
    return DatasheetPage(sheet.subject.version_id, title_of(sheet), sections(sheet), keyid, document, sheet.made_at)
