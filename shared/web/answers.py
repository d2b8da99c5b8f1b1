"""An answer that was given before."""

from starlette.responses import Response


class Answered(Exception):
    """Not an error: this request was answered before, and this is the answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__("answered before")
        self.status, self.body = status, body

    def response(self) -> Response:
        """Return the stored answer, marked as such."""
        return Response(self.body, self.status, {"idempotency-replayed": "true"}, "application/json")
