"""The ring and its encryption once more in Python's integers, slow and plain: nothing here is shared with the code.

Products are schoolbook negacyclic convolutions, transforms are evaluations at powers of a root, Shamir's shares come
from Lagrange's formula over fractions modulo q.
"""

from collections.abc import Iterable, Mapping, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

N = 4096
Q = 2**64 - 2**32 + 1
PSI = pow(7, (Q - 1) // 8192, Q)


def multiply(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """Return a * b modulo X**n + 1; zeros in `a` cost nothing."""
    n, out = len(b), [0] * len(b)
    for i, x in enumerate(a):
        if x:
            for j, y in enumerate(b):
                out[(i + j) % n] += x * y if i + j < n else -x * y
    return [value % Q for value in out]


def value(polynomial: Sequence[int], place: int) -> int:
    """Return the polynomial's value at the odd power 2 * place + 1 of the root."""
    x, result = pow(PSI, 2 * place + 1, Q), 0
    for coefficient in reversed(polynomial):
        result = (result * x + coefficient) % Q
    return result


def coefficients(values: Sequence[int], places: Iterable[int]) -> list[int]:
    """Return the coefficients at these places of the polynomial that has these values: a plain inverse transform.

    Coefficients of all places are found by halves (Cooley and Tukey), single ones by their definition.
    """
    if isinstance(places, range):
        return [x * pow(PSI, -j, Q) * pow(N, -1, Q) % Q for j, x in enumerate(_transform(values, pow(PSI, -2, Q)))]
    return [pow(N, -1, Q) * sum(v * pow(PSI, -(2 * i + 1) * j, Q) for i, v in enumerate(values)) % Q for j in places]


def _transform(values: Sequence[int], root: int) -> list[int]:
    """Return sum over i of values[i] root**(i j) for every j."""
    if len(values) == 1:
        return [values[0]]
    even, odd = _transform(values[::2], root * root % Q), _transform(values[1::2], root * root % Q)
    twisted, power = list[int](), 1
    for value in odd:
        twisted.append(value * power % Q)
        power = power * root % Q
    return [(x + y) % Q for x, y in zip(even, twisted, strict=True)] + [
        (x - y) % Q for x, y in zip(even, twisted, strict=True)
    ]


def uniform(key: bytes, count: int) -> list[int]:
    """Return words of AES-256-CTR, those not below q left out."""
    stream, found = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor(), list[int]()
    while len(found) < count:
        word = int.from_bytes(stream.update(bytes(8)), "little")
        found += [word] if word < Q else []
    return found


def packed(values: Sequence[int], noise: Sequence[int], fields: int, width: int) -> list[int]:
    """Return coefficients of `fields` values each and their noise."""
    delta, padded = 2 ** (63 - fields * width), [*values, *[0] * (len(noise) * fields - len(values))]
    return [
        (delta * sum(padded[i * fields + f] << (width * f) for f in range(fields)) + e) % Q for i, e in enumerate(noise)
    ]


def shares_at_zero(shares: Mapping[int, int]) -> int:
    """Return the value at 0 of the polynomial through these points."""
    total = 0
    for i, y in shares.items():
        weight = 1
        for j in shares:
            if j != i:
                weight = weight * j * pow(j - i, -1, Q) % Q
        total += y * weight
    return total % Q
