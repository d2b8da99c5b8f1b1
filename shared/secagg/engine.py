"""The seam between the services and an engine: how updates are hidden and their sum is opened.

A round is a line of named steps. In each step every client sends one message; the server closes the step over the
messages it has, and the closing gives an answer for every client, which that client brings to its next step. One step
is always `UPLOAD`: its message is the update's binary body, and the server closes it over the digests of the bodies
that it holds durably. An engine without other steps has one message a site; one with masks has steps before the upload
(keys, shares) and after it (survivors, unmasking).

Both sides are pure: state goes in and comes out as bytes, so that a service can store it, sealed, before anything that
depends on it leaves. Beginning a round, closing a step and opening the sum may need other parties (a witness that signs
one survivor set, a second server, several holders of shares): then `Opened.asks`, `Closed.asks` or
`ServerEngine.sum_asks` say whom to ask what, all at the same time, and the engine goes on with answers that suffice.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from pydantic import JsonValue

from undersong.shared.errors import Conflict, Invalid, Refusal, Unavailable
from undersong.shared.ids import SiteId
from undersong.shared.secagg.facts import UPLOAD as UPLOAD
from undersong.shared.secagg.facts import EngineFacts
from undersong.shared.secagg.facts import EngineUnknown as EngineUnknown
from undersong.shared.secagg.floors import NO_FLOORS as NO_FLOORS
from undersong.shared.secagg.floors import Floors as Floors
from undersong.shared.secagg.quantise import ModVector
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.updates import MalformedUpdate, UpdateHeader

SHARES_DISPUTED: Final = "shares-disputed"
"""The code of a site of which others say that they cannot use the shares that it dealt, as often as is tolerated."""
ANSWER_BYTES: Final = 1 << 20  # of another party, where the engine does not say otherwise
MODEL_BITS: Final = 8  # an initialise round carries a safetensors file: words of one byte, never summed
Entropy = Callable[[int], bytes]
Derive = Callable[[bytes], bytes]
"""32 secret bytes for a label, from a secret that a server keeps for years: the same ones each time."""
Pieces = Iterator[bytes | memoryview]


class UpdateRefused(Invalid):
    """The update is not what the round's manifest asks of this site."""


class ReportMalformed(Invalid):
    """The report is not in the documented form."""


class ReportRepeated(Conflict):
    """A report of this id, or of this site in this round, was accepted before; it is not verified again."""


class PublicUnsigned(UpdateRefused):
    """The round's public material lacks the signature of a party whose key is in it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A site that broke a round's protocol, in words for people; `code` names the kind.

    With `SHARES_DISPUTED` it is not proved that the site did: others say so, and who is right cannot be told.
    """

    site_id: SiteId
    code: str
    detail: str

    @property
    def proved(self) -> bool:
        """Whether the site is at fault."""
        return self.code != SHARES_DISPUTED


class RoundSpoiled(Unavailable):
    """The round cannot be opened; `faults` names the sites that are to blame, where that is known."""

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class BodySource(Protocol):
    """The payload of a stored body, read once from its beginning."""

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes, fewer only at the end; valid until the next call."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a client hides: packed words of `modulus_bits`, `length` of them (bytes of a model for initialise).

    `samples`: the committed sample count that goes with it, not hidden.
    """

    kind: RoundKind
    length: int
    modulus_bits: int
    data: memoryview
    metrics_layout: str | None = None
    samples: bytes | None = None


OpenBody = Callable[[SiteId], AbstractContextManager[tuple[UpdateHeader, BodySource]]]
"""Opens a site's stored body: its header, and its payload from the beginning. Blocking."""


@dataclass(frozen=True, slots=True)
class ServerRound:
    """The server's place in one round; `secret` is the engine's state as it was last stored.

    shares: what other parties gave for the sum (`ServerEngine.sum_asks`), by `Ask.index`. length: how many words a
    payload of this round has, once that is known. body: opens a stored body, while a step is closed.
    """

    manifest: RoundManifest
    secret: bytes
    site_keys: Mapping[SiteId, bytes] = field(default_factory=dict)
    shares: Mapping[int, bytes] = field(default_factory=dict)
    length: int | None = None
    body: OpenBody | None = None
    entropy: Entropy = os.urandom


@dataclass(frozen=True, slots=True)
class ClientRound:
    """A client's place in one round: what it was told and verified, and what it can do.

    `public` is the aggregator's signed material, `sign` its own identity key and `keyid` that key's certificate,
    `witness` the witness's public key, `body` the SHA-256 of the update it submitted, once it has.
    """

    manifest: RoundManifest
    site_id: SiteId
    public: Mapping[str, JsonValue]
    sign: Callable[[bytes], bytes] | None = None
    witness: bytes | None = None
    body: bytes | None = None
    keyid: str | None = None
    entropy: Entropy = os.urandom
    floors: Floors = NO_FLOORS


@dataclass(frozen=True, slots=True)
class Ask:
    """A question to another party; `index` tells parties of one name apart, and names the answer.

    answer_bytes: a longer answer is not read to its end and counts as of no use.
    """

    party: str
    body: bytes
    index: int = 0
    answer_bytes: int = ANSWER_BYTES


Replies = Mapping[int, bytes]
"""Answers by `Ask.index`: at least `Asks.need` of them."""
CheckReplies = Callable[[Replies], Mapping[int, str]]
"""Names the answers that are of no use, by index, each with the reason.

Raises RepliesContradict where some of them must be wrong and only more answers can tell which.
"""


class AsksUnanswerable(Unavailable):
    """No answers of other parties can complete the round: too few of them can be asked."""


class RepliesContradict(Unavailable):
    """The answers of other parties contradict each other, and too few came to tell which of them are wrong."""


def all_usable(replies: Replies) -> Mapping[int, str]:  # noqa: ARG001
    """Find nothing wrong with any answer."""
    return {}


def checked_each(check: Callable[[int, bytes], object]) -> CheckReplies:
    """Make a check of all answers from one of a single answer, which raises where that is of no use."""

    def check_replies(replies: Replies) -> dict[int, str]:
        unusable = {}
        for index, reply in replies.items():
            try:
                check(index, reply)
            except Refusal as refusal:
                unusable[index] = refusal.detail
            except Exception as error:  # noqa: BLE001 -- a parser that met what it did not expect
                unusable[index] = f"it cannot be read ({type(error).__name__})"
        return unusable

    return check_replies


@dataclass(frozen=True, slots=True)
class Asks:
    """Questions that are put at the same time; as soon as `need` usable answers are there, the engine can go on.

    check: says which of the answers are of no use; it is called again with each further answer, in a thread.
    patience_s: how long further answers are waited for once those that are there suffice, for the sake of a spare.
    Raises AsksUnanswerable where fewer parties are asked than are needed, ValueError where two answers would have one
    name.
    """

    asks: tuple[Ask, ...] = ()
    need: int = 0
    check: CheckReplies = all_usable
    patience_s: float = 0.0

    def __post_init__(self) -> None:
        indices = [ask.index for ask in self.asks]
        if len(set(indices)) != len(indices) or min(indices, default=0) < 0:
            raise ValueError(f"each question needs an index of its own, from 0 on, not {indices}")
        if self.need < bool(self.asks):
            raise ValueError(f"{len(self.asks)} questions are put and {self.need} answers are needed")
        if self.need > len(self.asks):
            raise AsksUnanswerable(f"{self.need} answers are needed and only {len(self.asks)} parties can be asked")

    @classmethod
    def one(
        cls, party: str, body: bytes, check: Callable[[bytes], object] | None = None, answer_bytes: int = ANSWER_BYTES
    ) -> "Asks":
        """Make a single question, which must be answered; `check` raises where the answer is of no use."""
        asks = (Ask(party, body, answer_bytes=answer_bytes),)
        if check is None:
            return cls(asks, 1)
        return cls(asks, 1, checked_each(lambda _, reply: check(reply)))

    def __bool__(self) -> bool:
        return bool(self.asks)


NO_ASKS: Final = Asks()


@dataclass(frozen=True, slots=True)
class Opened:
    """A round's beginning at the server: what everyone may know, and what must be stored sealed.

    With `asks` it is complete only with the answers (`ServerEngine.begun`).
    """

    public: dict[str, JsonValue]
    secret: bytes
    asks: Asks = NO_ASKS


@dataclass(frozen=True, slots=True)
class Closed:
    """A step's end: the state to store, then an answer for each client, unless other parties must be asked first.

    With `asks` the step is closed again, with the answers and `secret` as the state; that can happen more than once.
    `faults`: sites that were found in this step to have broken the protocol, though the round goes on, and those of
    which others say so. `complaints`: who says of whom that its shares are of no use, which is held against neither.
    """

    secret: bytes
    answers: Mapping[SiteId, bytes] = field(default_factory=dict)
    asks: Asks = NO_ASKS
    faults: Sequence[Fault] = ()
    complaints: Mapping[SiteId, Sequence[SiteId]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """What stays of a finished round for everybody to check; nothing in it shows an update.

    roster, sharers, survivors: the engine's own bytes, None where it has none. commitments: the survivors' signatures
    over the survivor set. upload_signatures: theirs over the digests of their bodies. complaints: each site's signed
    complaints about others, the engine's own bytes. faults: codes of what sites did against the protocol.
    """

    roster: bytes | None = None
    sharers: bytes | None = None
    survivors: bytes | None = None
    commitments: Mapping[SiteId, bytes] = field(default_factory=dict)
    complaints: Mapping[SiteId, bytes] = field(default_factory=dict)
    faults: Mapping[SiteId, str] = field(default_factory=dict)
    upload_signatures: Mapping[SiteId, bytes] = field(default_factory=dict)


class ServerEngine(Protocol):
    """The aggregator's side of an engine."""

    def open(self, manifest: RoundManifest, entropy: Entropy = os.urandom, derive: Derive | None = None) -> Opened:
        """Begin a round. `derive`: for what must be the same in all rounds of a job without being stored."""

    def begun(self, server_round: ServerRound, opened: Opened, replies: Replies) -> Opened:
        """Complete the beginning with the answers to `Opened.asks`; engines that ask no party raise `UpdateRefused`."""

    def body_size(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        """Exact number of payload bytes that a body with this header has; raises `UpdateRefused`."""

    def open_payload(self, server_round: ServerRound, header: UpdateHeader, source: BodySource) -> Iterator[memoryview]:
        """Return the payload's packed words, block by block, each valid until the next; masked ones stay masked.

        Every block but the last is a multiple of 24 bytes. Raises `UpdateRefused` where the body was tampered with.
        """

    def close(
        self, server_round: ServerRound, step: str, messages: Mapping[SiteId, bytes], replies: Replies | None = None
    ) -> Closed:
        """End a step over these clients' messages.

        For `UPLOAD` that is the digest of each body (32 bytes), with the site's signature behind it where the engine
        has bodies signed (`Engine.signing`).
        """

    def sum_length(self, manifest: RoundManifest, header: UpdateHeader) -> int:
        """Return how many words `open_payload` yields for a body with this header, and so the sum has."""

    def sum_asks(self, server_round: ServerRound) -> Asks:
        """Return what other parties are asked after the last step; `server_round.shares` holds the answers later."""

    def unmask_sum(self, server_round: ServerRound, total: ModVector) -> ModVector:
        """Turn the sum of opened payloads into the sum of plain ones, uint[header.length], once every step is closed.

        The memory of `total` is used for it.
        """

    def evidence(self, server_round: ServerRound) -> RoundEvidence:
        """Return what the round leaves behind for its record, once every step is closed."""

    def modulus(self, manifest: RoundManifest) -> int | None:
        """Return the prime that unveiled words are added modulo; None for ``2**modulus_bits``."""


class Verifier(Protocol):
    """What the federation's authority vouches for, as a client can ask it. Blocking: it may fetch certificates."""

    def check(self, service: str, keyid: str, signature: str, statement: bytes) -> None:
        """Raise unless the key of this service's certificate `keyid`, valid now, signed the statement."""


class ClientEngine(Protocol):
    """The agent's side of an engine. The agent stores the state before the message that goes with it leaves."""

    def begin(self, client_round: ClientRound, verifier: Verifier) -> bytes:
        """Return the client's private state at the round's beginning, once the public material was checked.

        `verifier` checks what parties other than the aggregator signed in it. Raises `UpdateRefused` for unusable
        material, `PublicUnsigned` where a signature is missing, and whatever the verifier raises.
        """

    def message(self, client_round: ClientRound, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:
        """(state, message) for a step that is not the upload, given the answer to the step before."""

    def upload(
        self, client_round: ClientRound, state: bytes, answer: bytes | None, payload: Payload
    ) -> tuple[bytes, Pieces]:
        """(state, the whole binary body): header first, in pieces that are valid until the next."""


class BodySigning(Protocol):
    """How a site signs the digest of its body, apart from the body, for engines that record who uploaded what."""

    def sign(self, client_round: ClientRound, state: bytes, body_digest: bytes) -> bytes:
        """Return the signature that is stored and sent with the body; `state` is that after the upload."""

    def check(self, server_round: ServerRound, site_id: SiteId, body_digest: bytes, signature: bytes) -> None:
        """Raise `UpdateRefused` unless the site signed this body for this round."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: its facts, and the code of both sides."""

    facts: EngineFacts
    server: ServerEngine
    client: ClientEngine
    signing: BodySigning | None = None

    @property
    def name(self) -> str:
        """What manifests call it."""
        return self.facts.name

    @property
    def steps(self) -> tuple[str, ...]:
        """The messages of a site, in order."""
        return self.facts.steps


def header_for(
    client_round: ClientRound, engine: str, payload: Payload, material: Mapping[str, bytes | int]
) -> UpdateHeader:
    """Return the header of this client's body."""
    return UpdateHeader(
        round_id=client_round.manifest.round_id,
        manifest_digest=client_round.manifest.digest(),
        site_id=client_round.site_id,
        engine=engine,
        kind=payload.kind,
        length=payload.length,
        modulus_bits=payload.modulus_bits,
        metrics_layout=payload.metrics_layout,
        material=material,
        samples=payload.samples,
    )


def check_header(header: UpdateHeader, manifest: RoundManifest, site_id: SiteId, *, length: int | None = None) -> None:
    """Refuse a body that is for another round, of another site, or in another form; `length` where it is known."""
    wanted_bits = MODEL_BITS if manifest.encoding is None else manifest.encoding.modulus_bits
    wanted: dict[str, tuple[object, object]] = {
        "round_id": (header.round_id, manifest.round_id),
        "site_id": (header.site_id, site_id),
        "engine": (header.engine, manifest.engine),
        "kind": (header.kind, manifest.kind),
        "modulus_bits": (header.modulus_bits, wanted_bits),
        "length": (header.length, header.length if length is None else length),
        "manifest_digest": (header.manifest_digest, manifest.digest()),
    }
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise UpdateRefused(f"the update's {name} is {found}, this round needs {needed}")
    if site_id not in manifest.cohort:
        raise UpdateRefused("the site is not in the round's cohort")
    if (header.metrics_layout is not None) != (header.kind is RoundKind.EVALUATE):
        raise MalformedUpdate("evaluation sums name their metrics_layout, nothing else does")
