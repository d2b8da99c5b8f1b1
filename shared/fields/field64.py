"""The prime field of Shamir's shares and of PINE: p = 2**64 - 2**32 + 1 ("Goldilocks").

Values are uint64 in [0, p). The reduction uses 2**64 = 2**32 - 1 and 2**96 = -1 (mod p).
Kernels are compiled by numba with explicit signatures, cached on disk and free of the GIL; they are
branch-light but not audited for constant time. The tests hold a plain Python twin of each.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from undersong.shared.fields.plain64 import Field as Field
from undersong.shared.fields.plain64 import P as P

_EPSILON = np.uint64(2**32 - 1)  # 2**64 mod p
_P = np.uint64(P)
_32 = np.uint64(32)


@intrinsic
def _wide(typingctx: Any, a: Any, b: Any) -> Any:  # noqa: ARG001 - numba's calling convention
    """Return the 128-bit product of two uint64 as (high, low)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        low = builder.trunc(product, ir.IntType(64))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        return context.make_tuple(builder, signature.return_type, (high, low))

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), generate  # type: ignore[no-untyped-call]


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def add(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the sum a + b mod p."""
    total = a + b
    if total < a:  # wrapped: 2**64 = epsilon
        total += _EPSILON
    return total - _P if total >= _P else total


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def multiply(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the product a * b mod p."""
    high, low = _wide(a, b)  # type: ignore[call-arg, var-annotated]
    top, middle = high >> _32, high & _EPSILON
    reduced = low - top
    if low < top:
        reduced -= _EPSILON
    shifted = middle * _EPSILON
    total = reduced + shifted
    if total < shifted:
        total += _EPSILON
    return total - _P if total >= _P else total
