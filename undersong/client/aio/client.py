"""The client for asyncio programs.

The package `sync` is generated from `aio` (`make client`): change this one. Only what awaits differs between the two.
"""

from undersong.client.aio.automation import AsyncAutomationMethods
from undersong.client.aio.models import AsyncModelMethods
from undersong.client.aio.people import AsyncPeopleMethods


class AsyncClient(AsyncAutomationMethods, AsyncPeopleMethods, AsyncModelMethods):
    """Speaks to all services of one platform; `async with AsyncClient(profile) as client: …`.

    Requests are repeated with the same idempotency key while a service is away (about ten seconds in all).

    `timeout` is in seconds, for each wait of a request (httpx.Timeout names them one by one); by default 5 to connect
    and 30 otherwise. `transport` is an httpx transport that sends the requests in place of the network: to an
    application in this process, to a test's own answers, or through a proxy; trust in certificates is then its matter.
    """
