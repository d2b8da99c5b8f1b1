"""What a scheme says no to. `VdafMalformed` and `VdafRejected` judge a report, the others a client's own input."""

from undersong.shared.errors import Invalid


class VdafMalformed(Invalid):
    """A message of the scheme has the wrong length or holds a number outside the field."""


class VdafRejected(Invalid):
    """The report's proof does not hold."""


class InputNotFinite(Invalid):
    """The measurement holds a value that is not a finite number."""


class InputOutOfRange(Invalid):
    """The measurement is outside what the scheme proves."""


class FreshRandomnessNeeded(Invalid):
    """This randomness cannot carry the proof of an honest measurement; shard again with fresh randomness."""
