"""What an operator changes before its time: a service's identity and the key for its secrets at rest."""

import asyncio
import sys

from undersong.shared.identity.enrol import rotate_now
from undersong.shared.identity.sealing import Sealer, add_key, drop_old_keys
from undersong.shared.web.settings import ServiceSettings
from undersong.shared.web.trust import traced_client


def new_seal_key(settings: ServiceSettings) -> None:
    """Put a new first key into the key file and keep the one before.

    No row is encrypted again: what a service but keys seals lives shorter than two rotations.
    """
    Sealer.ensure(settings.seal_key)
    add_key(settings.seal_key)
    drop_old_keys(settings.seal_key)
    sys.stdout.write(f"{settings.seal_key}: a new key seals, the one before still opens\n")


def rotate_identity(settings: ServiceSettings) -> None:
    """Get a new key and certificate from the keys service now, and print them."""
    asyncio.run(_rotate_identity(settings))


async def _rotate_identity(settings: ServiceSettings) -> None:
    async with traced_client(settings) as http:
        identity = await rotate_now(http, settings.keys_url, settings.identity_dir)
    sys.stdout.write(f"{identity.subject.uri}: {identity.keyid} until {identity.holder.not_after.isoformat()}\n")
