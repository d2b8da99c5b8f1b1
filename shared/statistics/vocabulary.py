"""A vocabulary of texts from sums over all sites: characters or words that enough of them use.

A site tells of each place whether it uses it at least so many times, and how often; both are summed in secret. The
place of a character is its code point, up to U+FFFF. That of a word is one of as many buckets, by a hash: no word
leaves a site, words of one bucket share it, and who guesses a word can look its bucket up. Who opens the sums keeps the
places that enough sites use, and hands on these alone.

Source of features by hashes: Weinberger et al., Feature Hashing for Large Scale Multitask Learning (ICML 2009).
"""

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.statistics.measures import SALT

Tokens = Literal["characters", "words"]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
PLACES: Final = 2**16
LENGTH: Final = SALT + 2 * PLACES
"""How many sums there are: the salt, sites by place, uses by place."""
RULE: Final = "vocabulary"
"""The name under which a round's context has the places, and recipes say that theirs are sums of this kind."""
_SALT_BITS: Final = 40
_WORD: Final = re.compile(r"\w+|[^\w\s]")


class VocabularyInvalid(Invalid):
    """The sums give no vocabulary."""


def words_of(text: str) -> list[str]:
    """Return a text's words, in small letters, and its marks, each alone."""
    return _WORD.findall(text.casefold())


def place_of_word(word: str) -> int:
    """Return the bucket of a word."""
    digest = hashlib.sha256(b"undersong/word/1:" + word.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:2], "big")


def places_of(text: str, tokens: Tokens) -> Places:
    """Return the place of each character or word of a text, int64[n]; PLACES for a character beyond U+FFFF."""
    if tokens == "words":
        return np.array([place_of_word(word) for word in words_of(text)], np.int64)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    return np.minimum(points, PLACES)


def site_sums(texts: Iterable[str], tokens: Tokens, least: int) -> Floats:
    """Return a site's sums, float64[LENGTH]; a place that it uses fewer than `least` times is not told.

    They are behind random numbers, as those of `undersong.shared.statistics.measures`.
    """
    uses = np.zeros(PLACES + 1, np.int64)
    if tokens == "words":
        for word, count in Counter(word for text in texts for word in words_of(text)).items():
            uses[place_of_word(word)] += count
    else:
        for text in texts:
            uses += np.bincount(places_of(text, tokens), minlength=PLACES + 1)
    told = np.where(uses[:PLACES] >= max(1, least), uses[:PLACES], 0)
    salt = [float(secrets.randbits(_SALT_BITS)) for _ in range(SALT)]
    return np.concatenate([salt, told > 0, told]).astype(np.float64)


def vocabulary_of(sums: Sequence[float] | Floats, size: int, min_sites: int) -> Places:
    """Return the places that at least `min_sites` sites use, the most frequent `size` of them first, int64[k].

    Raises `VocabularyInvalid` for sums of another form.
    """
    found = np.asarray(sums, np.float64)
    if found.shape != (LENGTH,) or not np.isfinite(found).all():
        raise VocabularyInvalid(f"{found.size} sums came, and a vocabulary has {LENGTH}, all of them finite")
    sites, uses = found[SALT:].reshape(2, PLACES)
    shared = np.flatnonzero(sites > min_sites - 0.5)
    return shared[np.argsort(-uses[shared], kind="stable")][:size].astype(np.int64)


def settled(sums: Sequence[float], settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return what sites are told of opened sums, for a round's context; raises `VocabularyInvalid`.

    settings: the recipe's `vocabulary_size` and `min_sites`.
    """
    size, min_sites = (_whole(settings.get(name), name) for name in ("vocabulary_size", "min_sites"))
    return {RULE: [float(place) for place in vocabulary_of(sums, size, min_sites)]}


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise VocabularyInvalid(f"{name} is {value!r}, and must be a whole number above 0")
    return value


def told_places(values: Sequence[float]) -> Places:
    """Return the places that a round's context tells; raises `VocabularyInvalid` for what are none."""
    found = np.asarray(values, np.float64)
    if not (np.isfinite(found).all() and (found == np.rint(found)).all() and np.unique(found).size == found.size):
        raise VocabularyInvalid("the vocabulary that was told holds numbers that are no places, or one twice")
    if found.size and not 0 <= found.min() <= found.max() < PLACES:
        raise VocabularyInvalid(f"the vocabulary that was told holds places outside of 0 to {PLACES - 1}")
    return found.astype(np.int64)


def given_places(listed: Sequence[str], tokens: Tokens) -> Places:
    """Return the places of listed characters or words, each once; raises `VocabularyInvalid` for what is neither."""
    made: dict[int, str] = {}
    for text in listed:
        places = places_of(text, tokens)
        if places.size != 1 or places[0] == PLACES:
            what = "character up to U+FFFF" if tokens == "characters" else "word"
            raise VocabularyInvalid(f"{text!r} in the vocabulary is not one {what}")
        made.setdefault(int(places[0]), text)
    return np.array(list(made), np.int64)
