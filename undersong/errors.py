"""Errors on the user's side: each says what happened and how to fix it, in one line."""

from collections.abc import Sequence


class UndersongError(Exception):
    """An expected failure; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message and, when there is one, its remedy."""
        return f"{self.message} → {self.remedy}" if self.remedy else self.message


class StartError(UndersongError):
    """A process of the embedded platform did not start."""

    exit_code = 3


class UnreachableError(UndersongError):
    """A service does not answer."""

    exit_code = 4


class ProfileError(UndersongError):
    """No platform is known here, or the stored profile is not usable."""

    exit_code = 2


class RowsError(UndersongError):
    """Rows cannot be used: `errors` are a JSON pointer (`/rows/3/age`) and what is wrong there, each."""

    def __init__(self, message: str, errors: Sequence[tuple[str, str]], *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Return the message with each fault, and its remedy."""
        return "; ".join([super().__str__(), *(f"{path}: {message}" for path, message in self.errors)])


class ApiError(UndersongError):
    """A service refused the request (RFC 9457 problem document)."""

    def __init__(self, status: int, slug: str, title: str, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail or title, remedy=REMEDIES.get(slug) or REMEDIES.get(str(status)))
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Return the message with every fault that the service found, and its remedy."""
        return "; ".join([super().__str__(), *(f"{path or '/'}: {message}" for path, message in self.errors)])


REMEDIES = {
    "same-person": "have another person of the role run the same command with a token of their own",
    "scope-missing": "use a token for this, or one without scopes: `undersong token create NAME --scope …`",
    "not-oneself": "ask another administrator of all federations",
    "401": "check the token: `undersong doctor`, or `undersong login` with a fresh one",
    "403": "ask an administrator for the role that this needs (`undersong token create --role …`)",
    "503": "the service is waiting for its database or Redis: `undersong doctor` shows which",
}
