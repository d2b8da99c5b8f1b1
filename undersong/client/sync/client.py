"""The client for ordinary programs and the command line.

Generated from `aio/client.py` by `make client`: change that file.
"""

from undersong.client.sync.automation import AutomationMethods
from undersong.client.sync.models import ModelMethods
from undersong.client.sync.people import PeopleMethods


class Client(AutomationMethods, PeopleMethods, ModelMethods):
    """Speaks to all services of one platform; `with Client(profile) as client: …`.

    Requests are repeated with the same idempotency key while a service is away (about ten seconds in all).

    `timeout` is in seconds, for each wait of a request (httpx.Timeout names them one by one); by default 5 to connect
    and 30 otherwise. `transport` is an httpx transport that sends the requests in place of the network: to an
    application in this process, to a test's own answers, or through a proxy; trust in certificates is then its matter.
    """
