"""A service's trust relations: its certificate, a client that signs, the check of what others sign."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx

from undersong.shared.database import Database
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper, ensure_identity
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import PartyVerifier, RevocationFeed
from undersong.shared.queues import Sweeper, background
from undersong.shared.telemetry.metrics import CLOCK_SKEW_SECONDS, REVOCATION_AGE_SECONDS
from undersong.shared.telemetry.traces import current_trace
from undersong.shared.web.settings import ServiceSettings
from undersong.shared.web.vitals import measure_certificate, vitals

_FEED_S: Final = 5.0


@dataclass(frozen=True)
class ServiceTrust:
    """What a service needs to sign its requests and to verify those of others."""

    identity: IdentityKeeper
    verifier: PartyVerifier
    revocations: RevocationFeed
    directory: CertificateDirectory
    nonces: SqlNonces
    http: httpx.AsyncClient

    def signing(self, audience: str) -> httpx.Auth:
        """Return the ``auth=`` of a request to this service."""
        return SigningAuth(self.identity, audience)


def traced_client(settings: ServiceSettings) -> httpx.AsyncClient:
    """Return an httpx client that passes the present trace on and keeps connections open."""
    return httpx.AsyncClient(
        verify=settings.trust,
        timeout=httpx.Timeout(30.0, connect=5.0),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=60),
        event_hooks={"request": [_hand_on_trace]},
        trust_env=False,
    )


async def _hand_on_trace(request: httpx.Request) -> None:
    trace = current_trace()
    if trace is not None:
        request.headers["traceparent"] = trace


@asynccontextmanager
async def establish_trust(settings: ServiceSettings, service: str, database: Database) -> AsyncIterator[ServiceTrust]:
    """Enrol (or load the certificate), then follow revocations and rotate in time, as long as the block lasts.

    Waits up to ten minutes for the keys service and for the enrolment token's file.
    """
    async with traced_client(settings) as http:
        identity = await ensure_identity(http, settings.keys_url, settings.identity_dir, settings.enrol_token_file)
        keeper = IdentityKeeper(
            identity, settings.identity_dir, http, settings.keys_url, token_file=settings.enrol_token_file
        )
        feed = RevocationFeed(http, settings.keys_url, report_age=REVOCATION_AGE_SECONDS.set)
        await feed.poll_softly()
        nonces = SqlNonces(database)
        async with background(follow(feed, keeper), keeper.run(), vitals(service, settings, database)):
            yield _trust(identity, service, keeper, feed, nonces, http, settings.keys_url)


def _trust(
    identity: Identity,
    service: str,
    keeper: IdentityKeeper,
    feed: RevocationFeed,
    nonces: SqlNonces,
    http: httpx.AsyncClient,
    keys_url: str,
) -> ServiceTrust:
    return ServiceTrust(
        identity=keeper,
        verifier=PartyVerifier(identity.ca_certificate, service, nonces, feed, report_skew=CLOCK_SKEW_SECONDS.observe),
        revocations=feed,
        directory=CertificateDirectory(http, keys_url, identity.ca_certificate),
        nonces=nonces,
        http=http,
    )


async def follow(feed: RevocationFeed, keeper: IdentityKeeper) -> None:
    """Read the revocation feed until cancelled, and report how long the certificate still lasts."""

    async def poll() -> int:
        await feed.poll_softly()
        holder = keeper().holder
        measure_certificate("identity", holder.not_before, holder.not_after)
        return 0

    await Sweeper(_FEED_S, {"revocations": poll}).run()
