"""Whom the helper believes: coordinators who sign manifests, sites who sign reports; both by the directory."""

from undersong.services.keys.signatories import Signatories, SignatureUntrusted
from undersong.shared.secagg.twoserver.report import Report, ReportUnsigned
from undersong.shared.wire.manifest import RoundManifest


class Parties(Signatories):
    """Checks signatures; raises Unavailable where a certificate that is not known yet cannot be asked for."""

    async def check_report(self, manifest: RoundManifest, report: Report) -> None:
        """Check that a site of the cohort signed the report; raises ReportUnsigned."""
        if report.site_id not in manifest.cohort:
            raise ReportUnsigned(f"{report.site_id} is not in the cohort")
        statement = report.statement(manifest.digest())
        try:
            await self.check_site(manifest, report.site_id, report.keyid, report.signature, statement)
        except SignatureUntrusted as error:
            raise ReportUnsigned(f"the report of {report.site_id}: {error.detail}") from error
