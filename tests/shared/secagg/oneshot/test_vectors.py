"""A round's sum opened a second time by big integers alone: schoolbook products, a plain transform, Lagrange."""

from typing import Any

from tests.contracts.rounds import SITES
from tests.shared.lattice import reference
from tests.shared.secagg.oneshot.test_laws import registered, round_of, state_of
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.oneshot.terms import terms
from undersong.shared.secagg.quantise import signed, unpack
from undersong.shared.wire.custodian import CUSTODIAN

__all__ = ["registered"]
PLACES = (0, 1, 7, 39, 4095)


def test_the_reference_opens_what_the_sites_encrypted() -> None:
    round_ = round_of()
    round_.run({UPLOAD: frozenset({SITES[2]})})
    n, q = reference.N, reference.Q
    total = [0] * n
    for body in round_.bodies.values():
        words = [int.from_bytes(body[at : at + 8], "little") for at in range(len(body) - 8 * n, len(body), 8)]
        total = [(x + y) % q for x, y in zip(total, words, strict=True)]
    holders: Any = round_.parties[CUSTODIAN]
    sums = {k + 1: unpack(holders[k]._other.total, 64).tolist() for k in (0, 2)}
    key = [reference.shares_at_zero({k: words[i] for k, words in sums.items()}) for i in range(n)]
    public = reference.uniform(terms(round_.manifest).public_key(dict(state_of(round_).custodians)), n)
    a = reference.coefficients(public, range(n))
    c = dict(zip(PLACES, reference.coefficients(total, PLACES), strict=True))
    plain = [signed(unpack(round_.payload(site).data, 32), 32).astype(int).tolist() for site in round_.bodies]
    for place in PLACES:
        product = sum(a[i] * key[place - i] if i <= place else -a[i] * key[place - i + n] for i in range(n))
        found = (c[place] - product) % q
        found -= q if found > q // 2 else 0
        wanted = sum(words[place] for words in plain if place < len(words))
        assert abs(found - (wanted << 29)) < 2**10
        assert (found + 2**28) >> 29 == wanted
