"""Whom a party of rounds believes: coordinators, services and sites, by the directory of certificates."""

from cryptography.exceptions import InvalidSignature

from undersong.services.keys.domain import ManifestUntrusted
from undersong.shared.clock import Clock, utc_now
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.identity.authority import Holder, Subject, check_time
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.verify import Revocations
from undersong.shared.ids import Digest, SiteId
from undersong.shared.wire.manifest import RoundManifest, SignedManifest

COORDINATOR = Subject("service", "coordinator")


class SignatureUntrusted(Forbidden):
    """A statement is not signed by the party that it is said to be of, with a certificate that is valid."""


class Signatories:
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

    async def check_service(self, name: str, keyid: str, signature: bytes, statement: bytes) -> None:
        """Check that a service signed the statement; raises SignatureUntrusted."""
        await self._check(Subject("service", name), keyid, signature, statement)

    async def check_site(
        self, manifest: RoundManifest, site_id: SiteId, keyid: str, signature: bytes, statement: bytes
    ) -> None:
        """Check that a site of the manifest's federation signed the statement; raises SignatureUntrusted."""
        await self._check(Subject("site", site_id, manifest.federation_id), keyid, signature, statement)

    async def _check(self, subject: Subject, keyid: str, signature: bytes, statement: bytes) -> None:
        try:
            holder = await self._valid(Digest(keyid))
            if holder.subject != subject:
                raise SignatureUntrusted(f"the certificate is of {holder.subject.uri}, not of {subject.uri}")
            holder.public_key.verify(signature, statement)
        except (NotFound, Unauthenticated) as error:
            raise SignatureUntrusted(f"the certificate of {subject.name}: {error.detail}") from error
        except (InvalidSignature, ValueError) as error:
            raise SignatureUntrusted(f"the signature is not that of {subject.name}") from error

    async def _valid(self, keyid: Digest) -> Holder:
        holder = await self._directory.get(keyid)
        check_time(holder, self._clock())
        if self._revocations.revoked(keyid):
            raise Unauthenticated("the certificate is revoked")
        return holder
