"""What an operator changes before its time: a service's identity and the key for its secrets at rest."""

import asyncio
import sys

from shared.identity.enrol import rotate_now
from shared.identity.sealing import Sealer, add_key, drop_old_keys
from shared.web.settings import ServiceSettings
from shared.web.standing import traced_client

COMMANDS = ("rotate-identity", "new-seal-key")


def rotate(command: str, settings: ServiceSettings) -> None:
    """Run one of COMMANDS. What the services but keys seal lives shorter than two rotations, so no row is re-sealed."""
    if command == "new-seal-key":
        Sealer.ensure(settings.seal_key)
        add_key(settings.seal_key)
        drop_old_keys(settings.seal_key)
        sys.stdout.write(f"{settings.seal_key}: a new key seals, the one before still opens\n")
    else:
        asyncio.run(_rotate_identity(settings))


async def _rotate_identity(settings: ServiceSettings) -> None:
    async with traced_client(settings) as http:
        identity = await rotate_now(http, settings.keys_url, settings.identity_dir)
    sys.stdout.write(f"{identity.subject.uri}: {identity.keyid} until {identity.holder.not_after.isoformat()}\n")
