"""What the aggregator, the witness and the custodians of a round say to each other: msgpack, strictly read.

| message | from, to | fields |
| --- | --- | --- |
| BeginAsk | aggregator to custodian | manifest (signed, JSON) |
| BegunReply | custodian to aggregator | share_key (HPKE), keyid, signature over it |
| SetAsk | aggregator to witness | members (bitmap over the cohort), root over their bodies |
| Witnessed | witness to aggregator | nonce, keyid, signature over members, root and nonce |
| CheckAsk | aggregator to custodian | members, root, witnessed, and for each site what it dealt (`Dealt`) |
| Checked | custodian to aggregator | for each site one word, or the reason why its share is of no use |
| SumAsk | aggregator to custodian | members, root, sum_key (HPKE, the aggregator's for this round) |
| SumShare | custodian to aggregator | sealed (its sum of shares), keyid, signature over its digest |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from undersong.shared.ids import SiteId
from undersong.shared.secagg.oneshot.terms import WORD
from undersong.shared.secagg.strict import MessageMalformed, exact, packed, unpacked

MOST_SITES: Final = 1 << 14
_SIGNED: Final = {"keyid": 32, "signature": 64}


class _Exact:
    """A dataclass of bytes as a message."""

    _SIZES: ClassVar[Mapping[str, int | None]]

    def pack(self) -> bytes:
        """As bytes."""
        return packed({name: getattr(self, name) for name in self._SIZES})

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Strictly; raises MessageMalformed."""
        return cls(**exact(unpacked(data, most=0), cls._SIZES))


@dataclass(frozen=True)
class BeginAsk(_Exact):
    """Take part in a round."""

    _SIZES: ClassVar = {"manifest": None}
    manifest: bytes


@dataclass(frozen=True)
class BegunReply(_Exact):
    """A custodian's key for the round."""

    _SIZES: ClassVar = {"share_key": 32, **_SIGNED}
    share_key: bytes
    keyid: bytes
    signature: bytes


@dataclass(frozen=True)
class SetAsk(_Exact):
    """A set of sites and the root over their bodies."""

    _SIZES: ClassVar = {"members": None, "root": 32}
    members: bytes
    root: bytes


@dataclass(frozen=True)
class Witnessed(_Exact):
    """The witness's signature over a set, with the nonce to which the manifest commits."""

    _SIZES: ClassVar = {"nonce": 32, **_SIGNED}
    nonce: bytes
    keyid: bytes
    signature: bytes


@dataclass(frozen=True)
class SumAsk(_Exact):
    """Give the sum of shares over a set, sealed to this key."""

    _SIZES: ClassVar = {"members": None, "root": 32, "sum_key": 32}
    members: bytes
    root: bytes
    sum_key: bytes

    @property
    def asked(self) -> SetAsk:
        """The set."""
        return SetAsk(self.members, self.root)


@dataclass(frozen=True)
class SumShare(_Exact):
    """A custodian's sum of its shares, sealed, and its signature over that sum's digest."""

    _SIZES: ClassVar = {"sealed": None, **_SIGNED}
    sealed: bytes
    keyid: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Dealt:
    """What a custodian gets from one site: its sealed share, and the site's signature over all of its shares."""

    digests: bytes
    keyid: bytes
    signature: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class CheckAsk:
    """The witnessed set with every site's share for this custodian."""

    asked: SetAsk
    witnessed: Witnessed
    dealt: Mapping[SiteId, Dealt]

    def pack(self) -> bytes:
        """As bytes."""
        sites = [[site, each.digests, each.keyid, each.signature, each.sealed] for site, each in self.dealt.items()]
        return packed({"set": self.asked.pack(), "witnessed": self.witnessed.pack(), "dealt": packed(sites)})

    @classmethod
    def unpack(cls, data: bytes) -> "CheckAsk":
        """Strictly; raises MessageMalformed."""
        found = exact(unpacked(data, most=0), {"set": None, "witnessed": None, "dealt": None})
        dealt = dict(_dealt(item) for item in _items(found["dealt"]))
        return cls(SetAsk.unpack(found["set"]), Witnessed.unpack(found["witnessed"]), dealt)


@dataclass(frozen=True, slots=True)
class Checked:
    """A custodian's word for each site, which masks what it holds; or why the site's share is of no use to it."""

    words: Mapping[SiteId, int]
    unusable: Mapping[SiteId, str]

    def pack(self) -> bytes:
        """As bytes."""
        words = [[site, word.to_bytes(WORD, "little")] for site, word in self.words.items()]
        return packed([*words, *([site, reason] for site, reason in self.unusable.items())])

    @classmethod
    def unpack(cls, data: bytes) -> "Checked":
        """Strictly; raises MessageMalformed."""
        words, unusable = dict[SiteId, int](), dict[SiteId, str]()
        for item in _items(data):
            match item:
                case [str() as site, bytes() as word] if len(word) == WORD:
                    words[SiteId(site)] = int.from_bytes(word, "little")
                case [str() as site, str() as reason]:
                    unusable[SiteId(site)] = reason[:200]
                case _:
                    raise MessageMalformed("for each site there is one word, or a reason")
        return cls(words, unusable)


def _items(data: bytes) -> list[Any]:
    found = unpacked(data, most=MOST_SITES)
    if not isinstance(found, list):
        raise MessageMalformed("the message is a list with an item for each site")
    return found


def _dealt(item: Any) -> tuple[SiteId, Dealt]:
    match item:
        case [str() as site, bytes() as digests, bytes() as keyid, bytes() as signature, bytes() as sealed] if (
            len(keyid) == 32 and len(signature) == 64
        ):
            return SiteId(site), Dealt(digests, keyid, signature, sealed)
    raise MessageMalformed("a site's share comes with digests, keyid and signature")
