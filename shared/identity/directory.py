"""Whose signature is this: certificates by key id, believed only with the authority's signature."""

from collections import OrderedDict
from typing import Final

import httpx
from cryptography import x509

from undersong.shared.errors import NotFound, Unavailable
from undersong.shared.identity.authority import CertificateUntrusted, Holder, check_certificate, keyid_of

_KEPT: Final = 4096  # certificates are about 1 KiB; a federation has far fewer


class CertificateDirectory:
    """Looks certificates up once and keeps what the authority's signature makes immutable."""

    def __init__(self, http: httpx.AsyncClient, keys_url: str, ca_certificate: x509.Certificate) -> None:
        self._http, self._url, self._ca = http, keys_url, ca_certificate
        self._holders: OrderedDict[str, Holder] = OrderedDict()

    async def get(self, keyid: str) -> Holder:
        """Return the certificate's holder; raises NotFound, CertificateUntrusted or Unavailable.

        Revocation is not checked.
        """
        if keyid in self._holders:
            return self._holders[keyid]
        try:
            response = await self._http.get(f"{self._url}/v1/certificates/{keyid}")
        except httpx.TransportError as error:
            raise Unavailable("the certificate directory cannot be reached", retry_after_s=1) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(f"no certificate has the key id {keyid}")
        if not response.is_success:
            raise Unavailable(f"the certificate directory answered {response.status_code}", retry_after_s=1)
        certificate = x509.load_pem_x509_certificate(response.json()["certificate_pem"].encode())
        if keyid_of(certificate) != keyid:
            raise CertificateUntrusted("the directory gave another certificate than was asked for")
        holder = check_certificate(certificate, self._ca)
        self._holders[keyid] = holder
        if len(self._holders) > _KEPT:
            self._holders.popitem(last=False)
        return holder
