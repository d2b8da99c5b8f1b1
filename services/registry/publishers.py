"""Whether a version's statement was signed by whom it claims."""

from collections.abc import Callable
from typing import Protocol

from undersong.services.registry.access import Asker
from undersong.services.registry.domain import PublisherUnproven, Signature
from undersong.services.registry.views import VersionRequest
from undersong.shared.errors import FieldError, NotFound
from undersong.shared.identity.authority import CertificateUntrusted, Holder, SignatureMismatch, verify_signature
from undersong.shared.identity.verify import Party
from undersong.shared.ids import ModelId
from undersong.shared.wire.manifest import VERSION_CONTEXT, version_statement


class Directory(Protocol):
    """Certificates by key id."""

    async def get(self, keyid: str) -> Holder:
        """Return the key's holder; raises NotFound, CertificateUntrusted or Unavailable."""


class Publishers:
    """Checks publishers' signatures; `revoked` tells whether a certificate no longer counts."""

    def __init__(self, directory: Directory, revoked: Callable[[str], bool]) -> None:
        self._directory = directory
        self._revoked = revoked

    async def check(self, asker: Asker, model_id: ModelId, request: VersionRequest) -> list[Signature]:
        """Return the publisher's signature, proven; none when a person brings in an unsigned model.

        Raises PublisherUnproven.
        """
        keyid, signature = request.publisher_keyid, request.publisher_signature
        if keyid is None or signature is None:
            if isinstance(asker, Party) or keyid is not None or signature is not None:
                missing = "publisher_keyid" if keyid is None else "publisher_signature"
                raise PublisherUnproven(
                    "A publisher signs what it publishes.", errors=[FieldError(f"/{missing}", "is needed")]
                )
            return []
        holder = await self._holder(keyid)
        if isinstance(asker, Party) and holder.subject != asker.subject:
            raise PublisherUnproven(
                "The version is signed by another party.",
                errors=[FieldError("/publisher_keyid", f"belongs to {holder.subject.uri}")],
            )
        _verify(holder, model_id, request, signature)
        return [Signature("publisher", keyid, signature)]

    async def _holder(self, keyid: str) -> Holder:
        try:
            holder = await self._directory.get(keyid)
        except (NotFound, CertificateUntrusted) as error:
            raise PublisherUnproven(
                "The publisher's certificate is not known.", errors=[FieldError("/publisher_keyid", str(error))]
            ) from error
        if self._revoked(keyid):
            raise PublisherUnproven(
                "The publisher's certificate has been revoked.", errors=[FieldError("/publisher_keyid", "is revoked")]
            )
        return holder


def _verify(holder: Holder, model_id: ModelId, request: VersionRequest, signature: str) -> None:
    statement = version_statement(model_id, request.content_digest, request.lineage.as_signed())
    try:
        verify_signature(
            holder.public_key, VERSION_CONTEXT, statement[len(VERSION_CONTEXT) :], bytes.fromhex(signature)
        )
    except SignatureMismatch as error:
        raise PublisherUnproven(
            "The signature does not fit the statement.", errors=[FieldError("/publisher_signature", str(error))]
        ) from error
