"""How updates are made smaller before they are encoded: what a manifest says of it, the same for every site of a round.

All of it follows from public values, so that every site sends the same coordinates in the same rotation and their
integers can be added (`undersong.shared.secagg.compression`).
"""

from typing import Final, Self

from pydantic import Field, model_validator

from undersong.shared.wire.forms import Document, is_empty

LEAST_KEPT: Final = 0.001
"""The smallest share of a model's parameters that an update may have."""


class Compression(Document):
    """What is done to an update before it is encoded, in this order.

    error_feedback: a site adds what its earlier updates left out. keep: the share of the parameters that is sent, drawn
    anew in each round. rotation: what is sent is rotated, so that no coordinate is much larger than the others.
    """

    rotation: bool = Field(default=False, strict=True, exclude_if=is_empty)
    keep: float | None = Field(default=None, ge=LEAST_KEPT, lt=1, strict=True, exclude_if=is_empty)
    error_feedback: bool = Field(default=False, strict=True, exclude_if=is_empty)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.rotation or self.keep is not None or self.error_feedback):
            raise ValueError("a compression that changes nothing is left out")
        return self
