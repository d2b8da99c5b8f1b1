"""Whom the helper believes: coordinators who sign manifests, sites who sign reports; both by the directory."""

from cryptography.exceptions import InvalidSignature

from undersong.services.keys.helper.domain import ManifestUntrusted
from undersong.shared.clock import Clock, utc_now
from undersong.shared.errors import NotFound, Unauthenticated
from undersong.shared.identity.authority import Holder, Subject, check_time
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.verify import Revocations
from undersong.shared.ids import Digest
from undersong.shared.secagg.twoserver.report import Report, ReportUnsigned
from undersong.shared.wire.manifest import RoundManifest, SignedManifest

COORDINATOR = Subject("service", "coordinator")


class Parties:
    """Checks signatures; raises Unavailable where a certificate that is not known yet cannot be asked for."""

    def __init__(self, directory: CertificateDirectory, revocations: Revocations, clock: Clock = utc_now) -> None:
        self._directory, self._revocations, self._clock = directory, revocations, clock

    async def check_coordinator(self, signed: SignedManifest) -> None:
        """Check that the coordinator signed the manifest; raises ManifestUntrusted."""
        try:
            holder = await self._valid(signed.keyid)
            if holder.subject != COORDINATOR:
                raise ManifestUntrusted("the manifest is not signed by the coordinator")
            holder.public_key.verify(bytes.fromhex(signed.signature), signed.manifest.statement())
        except (NotFound, Unauthenticated) as error:
            raise ManifestUntrusted(f"the manifest's signer: {error.detail}") from error
        except (InvalidSignature, ValueError) as error:
            raise ManifestUntrusted("the manifest's signature does not fit it") from error

    async def check_report(self, manifest: RoundManifest, report: Report) -> None:
        """Check that a site of the cohort signed the report; raises ReportUnsigned."""
        if report.site_id not in manifest.cohort:
            raise ReportUnsigned(f"{report.site_id} is not in the cohort")
        try:
            holder = await self._valid(report.keyid)
        except (NotFound, Unauthenticated) as error:
            raise ReportUnsigned(f"the certificate of {report.site_id}: {error.detail}") from error
        if holder.subject != Subject("site", report.site_id, manifest.federation_id):
            raise ReportUnsigned(f"the report of {report.site_id} names the certificate of another party")
        report.check_signature(manifest.digest(), holder.public_key)

    async def _valid(self, keyid: Digest) -> Holder:
        holder = await self._directory.get(keyid)
        check_time(holder, self._clock())
        if self._revocations.revoked(keyid):
            raise Unauthenticated("the certificate is revoked")
        return holder
