"""Adding vectors of elements of Field64, and what a sum of them means: compiled ufuncs."""

import numpy as np
import numpy.typing as npt
from numba import vectorize

from undersong.shared.fields.field64 import P, add

_P = np.uint64(P)
_HALF = np.uint64(P // 2)


@vectorize(["uint64(uint64, uint64)"], cache=True)  # type: ignore[no-untyped-call]
def add_field(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the sum modulo p of canonical elements; a ufunc, so `out` may be an argument."""
    return add(a, b)


@vectorize(["uint64(uint64, uint64)"], cache=True)  # type: ignore[no-untyped-call]
def subtract_field(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the difference modulo p of canonical elements."""
    return a - b if a >= b else a + (_P - b)


def centred(total: npt.NDArray[np.unsignedinteger]) -> None:
    """Field elements to the integers of least size that they stand for, as two's complement, in place."""
    np.subtract(total, _P, out=total, where=total > _HALF)


def canonical(integers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Integers between -p/2 and p/2 as field elements: a new uint64[d]."""
    words = integers.view(np.uint64).copy()
    np.add(words, _P, out=words, where=integers < 0)
    return words
