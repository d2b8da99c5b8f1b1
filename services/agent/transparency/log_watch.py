"""Watches the transparency log: that everybody is shown the same one, and who is certified in this site's name.

Beside the work and never in its way. Every leaf is read once and folded into the log's root (RFC 9162), so the entries
are those that the keys service signed for. The heads that manifests and receipts carried are compared with that tree:
two that do not belong to one log are a fork. What is found is an alarm for a person, kept until the owner accepts the
log.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused
from undersong.services.agent.repository.alarms import FOREIGN, FORK, Alarms, acceptances
from undersong.services.agent.repository.state import AgentState, forget_heads, remember
from undersong.shared.identity.authority import Subject
from undersong.shared.ids import Digest
from undersong.shared.wire.manifest import LogHead
from undersong.shared.wire.records import LEDGER_HEAD, ROUND

if TYPE_CHECKING:
    from undersong.shared.merkle.proofs import Frontier
    from undersong.shared.transparency.documents import LogEntry

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

WATCHED: Final = "log_watched"  # the fact that holds the head of the last look
SEEN: Final = "log_seen"  # the fact that holds the tree under it: size, nodes, certificates in this site's name
PAGE: Final = 500
GATHER_S: Final = 20.0
"""Between two looks: the heads of quick rounds are compared together."""
UNSIGNED: Final = frozenset({"signature-wrong", "signature-party"})


@dataclass(slots=True)
class Seen:
    """How far the log was read: the tree's frontier, and certificates in this site's name that are not revoked.

    `enrolled`: whether a certificate for one of this site's keys was read; `foreign`: key id to its index.
    """

    size: int = 0
    nodes: list[bytes] = field(default_factory=list)
    enrolled: bool = False
    foreign: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, state: AgentState) -> Seen:
        """As it is stored."""
        found = state.fact(SEEN)
        return cls(**found) if isinstance(found, dict) else cls()

    def document(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {"size": self.size, "nodes": self.nodes, "enrolled": self.enrolled, "foreign": self.foreign}


class LogForkedError(Exception):
    """Two heads that the keys service signed do not belong to one log."""


class LogWatch:
    """Reads the log. `party` is this site's name in certificates; `own_keys` gives all keys that it ever made."""

    def __init__(
        self,
        state: AgentState,
        link: Link,
        signatures: Signatures,
        party: str,
        own_keys: Callable[[], frozenset[str]],
        *,
        every_s: float = 300.0,
        rounds: Callable[[Sequence[dict[str, Any]]], Awaitable[None]] | None = None,
        ledger_heads: Callable[[Sequence[dict[str, Any]]], Awaitable[None]] | None = None,
    ) -> None:
        """Remember who is given what is read: `rounds` the rounds of the first look after a start, `ledger_heads` the
        heads of this site's ledger at each look.
        """
        self._rounds, self._ledger_heads = rounds, ledger_heads
        self._heads_read: list[dict[str, Any]] = []
        self._begun: list[dict[str, Any]] = []
        self._every_s = every_s
        self._state, self._link, self._signatures = state, link, signatures
        self._party, self._own_keys = party, own_keys
        self._alarms = Alarms(state)
        self._accepted = self._alarms.acceptances()  # how often the owner had accepted the log when this look began
        self._known: set[str] = set()  # heads that were met before
        self.wake = asyncio.Event()

    def meet(self, head: LogHead | None) -> None:
        """Take a head that a manifest or a receipt carried: it is compared at the next look, after a restart too."""
        if head is None or (head.root in self._known):
            return
        if len(self._known) > PAGE:
            self._known.clear()
        self._known.add(head.root)
        self._state.meet_head(head.size, head.root, head.model_dump_json())
        self.wake.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.wake.clear()
            try:
                await self.look()
            except (Away, RequestRefused, TaskFailure, ValueError, KeyError, TypeError, sqlite3.Error) as error:
                log.info("log.unread", reason=str(error) or type(error).__name__)
            await asyncio.sleep(min(GATHER_S, self._every_s))
            try:
                async with asyncio.timeout(self._every_s):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Read what is new, and compare every head that was met since the last look.

        An owner who accepts the log meanwhile ends what this look found: the next one begins at the first entry.
        """
        self._accepted = await asyncio.to_thread(self._alarms.acceptances)
        met = await self._heads_met()  # before the head is asked for, which is then at least as new
        head = await self._head()
        try:
            await self._follow(head, met)
        except LogForkedError as fork:
            self._alarms.raise_(FORK, str(fork), head.model_dump_json(), since=self._accepted)

    async def _head(self) -> LogHead:
        head = LogHead.model_validate_json((await self._link.once(Call("GET", "/v1/log/head"))).content)
        await self._signatures.check("keys", head.keyid, head.signature, head.statement())
        return head

    async def _follow(self, head: LogHead, met: list[LogHead]) -> None:
        from undersong.shared.merkle.proofs import Frontier

        seen = await asyncio.to_thread(Seen.read, self._state)
        if head.size < seen.size:
            raise LogForkedError(f"the log has {head.size} entries, this site has read {seen.size}")
        for one in met:
            if one.size > head.size:
                raise LogForkedError(
                    f"this site is shown {head.size} entries, the coordinator was shown {one.size} before"
                )
        before, frontier = seen.size, Frontier(seen.size, seen.nodes)
        self._begun, self._heads_read = [], []
        expected: dict[int, set[Digest]] = {head.size: {head.root}}
        for one in met:
            expected.setdefault(one.size, set()).add(one.root)
        self._compare(frontier, expected)
        while frontier.size < head.size:
            await self._page(frontier, head.size, seen, expected)
        seen.size, seen.nodes = frontier.size, frontier.nodes
        for one in met:
            if 0 < one.size < before:
                await self._prove(one, head)
        if self._rounds is not None:
            await self._rounds(self._begun)
            self._rounds = None
        if self._ledger_heads is not None:
            await self._ledger_heads(self._heads_read)
        await asyncio.to_thread(self._settle, seen, head, met)

    async def _heads_met(self) -> list[LogHead]:
        """Return the heads to compare, each signed by keys; one that is not is an alarm of its own."""
        found = []
        for text in await asyncio.to_thread(self._state.heads_met):
            head = LogHead.model_validate_json(text)
            try:
                await self._signatures.check("keys", head.keyid, head.signature, head.statement())
            except TaskFailure as failure:
                log.warning("log_head.refused", size=head.size, reason=str(failure))
                if failure.code in UNSIGNED:
                    detail = f"a manifest carries a log head that keys did not sign: {failure}"
                    self._alarms.raise_(FORK, detail, text, since=self._accepted)
                self._state.forget_heads([(head.size, head.root)])
            else:
                found.append(head)
        return found

    async def _page(self, frontier: Frontier, end: int, seen: Seen, expected: dict[int, set[Digest]]) -> None:
        """Append up to 500 entries, comparing roots where heads are known."""
        from undersong.shared.transparency.documents import LogEntry

        stop = min(end, frontier.size + PAGE)
        call = Call("GET", f"/v1/log/entries?start={frontier.size}&end={stop}")
        items = json.loads((await self._link.once(call)).content)["items"]
        entries = [LogEntry.model_validate(item) for item in items]
        if [entry.index for entry in entries] != list(range(frontier.size, stop)):
            raise LogForkedError(
                f"the keys service does not show the entries from {frontier.size} to {stop} of the log that it signed"
            )
        own = await asyncio.to_thread(self._own_keys)
        for entry in entries:
            self._read(entry, seen, own)
            frontier.append(bytes.fromhex(entry.leaf()))
            self._compare(frontier, expected)

    def _compare(self, frontier: Frontier, expected: dict[int, set[Digest]]) -> None:
        for root in expected.get(frontier.size, ()):
            if bytes.fromhex(root) != frontier.root():
                raise LogForkedError(
                    f"two logs: at {frontier.size} entries the keys service signed another root than follows from them"
                )

    def _read(self, entry: LogEntry, seen: Seen, own: frozenset[str]) -> None:
        """Note who is certified in this site's name. Only what is under the root counts, so not the entry's subject."""
        document = entry.document
        if document.get("type") == ROUND and self._rounds is not None:
            self._begun.append(document)
        if document.get("type") == LEDGER_HEAD and self._is_own(document):
            self._heads_read.append(document)
        if document.get("type") == "certificate-issued" and document.get("party") == self._party:
            if document.get("public_key") in own:
                seen.enrolled = True
            else:
                seen.foreign[str(document.get("keyid"))] = entry.index
        elif document.get("type") == "certificate-revoked":
            seen.foreign.pop(str(document.get("keyid")), None)

    def _is_own(self, document: dict[str, Any]) -> bool:
        return Subject("site", str(document.get("site_id")), str(document.get("federation_id"))).uri == self._party

    def _foreign(self, keyid: str, document: dict[str, Any]) -> None:
        self._alarms.raise_(
            FOREIGN,
            f"keys certified a key in this site's name that is not this site's: certificate {keyid}",
            json.dumps(document),
            since=self._accepted,
        )

    async def _prove(self, old: LogHead, head: LogHead) -> None:
        """Have the keys service prove that an older head's log is a beginning of this one; raises LogForkedError."""
        from undersong.shared.merkle import proofs as merkle
        from undersong.shared.transparency.documents import ConsistencyProof

        call = Call("GET", f"/v1/log/proofs/consistency?first={old.size}&second={head.size}")
        try:
            proof = ConsistencyProof.model_validate_json((await self._link.once(call)).content)
        except RequestRefused as problem:  # both sizes were signed, so an honest log can prove it
            what = f"its log of {old.size} entries is a beginning of this one"
            detail = f"the keys service does not prove that {what}: {problem}"
            raise LogForkedError(detail) from problem
        path = [bytes.fromhex(item) for item in proof.path]
        try:
            merkle.verify_consistency(old.size, head.size, bytes.fromhex(old.root), bytes.fromhex(head.root), path)
        except merkle.MerkleProofInvalid as error:
            raise LogForkedError(f"two logs: the one of {old.size} entries is no beginning of this one") from error

    def _settle(self, seen: Seen, head: LogHead, met: list[LogHead]) -> None:
        """Remember a good head, and alarm about older certificates in this site's name that still hold."""
        if seen.enrolled:
            for keyid, index in seen.foreign.items():
                self._foreign(keyid, {"keyid": keyid, "index": index})
            seen.foreign = {}
        with self._state.store.writing() as db:
            if acceptances(db) != self._accepted:
                return
            remember(db, SEEN, seen.document())
            remember(db, WATCHED, head.model_dump_json())
            forget_heads(db, [(one.size, one.root) for one in met])
