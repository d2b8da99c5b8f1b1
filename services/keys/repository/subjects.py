"""Between a party and the columns that name it."""

from typing import Literal, cast

from undersong.services.keys.tables import CertificateRow, EnrolmentTokenRow
from undersong.shared.identity.authority import Subject


def subject_of(row: CertificateRow | EnrolmentTokenRow) -> Subject:
    """Return the party that a row names."""
    return Subject(cast("Literal['site', 'service']", row.kind), row.name, row.federation_id)


def party_of(subject: Subject) -> dict[str, str | None]:
    """Return the columns that name a party."""
    return {"kind": subject.kind, "name": subject.name, "federation_id": subject.federation_id}
