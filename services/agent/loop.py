"""The agent's main loop: enrol, report the site's profile, then lease, run and submit tasks until told to stop."""

from __future__ import annotations

import asyncio
import fcntl
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import httpx
import structlog

from undersong.services.agent.consent.inbox import Inbox
from undersong.services.agent.domain.rules import Policy, TaskFailure
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.heads import HeadCommitter, LoggedHeads
from undersong.services.agent.ledger.lost import LostRounds
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.memory import give_back
from undersong.services.agent.peers.aggregator import Aggregator
from undersong.services.agent.peers.coordinator import Coordinator, Lease
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Link, RequestRefused, make_client
from undersong.services.agent.peers.registry import Registry
from undersong.services.agent.policy.owners import OwnerMark
from undersong.services.agent.repository.alarms import Alarms
from undersong.services.agent.repository.highwater import SentMessages
from undersong.services.agent.repository.models import ModelCache
from undersong.services.agent.repository.room import Room
from undersong.services.agent.repository.state import AgentState
from undersong.services.agent.rounds.setup import ServiceClients
from undersong.services.agent.rounds.tasks import Tasks
from undersong.services.agent.runner import processors
from undersong.services.agent.settings import AgentSettings, ConfigError
from undersong.services.agent.site.profile import unreadable_profile
from undersong.services.agent.site.reader import LOOK_S, SiteReader
from undersong.services.agent.transparency.log_watch import LogWatch
from undersong.services.agent.transparency.receipts import Receipts
from undersong.shared.files import open_lock
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper, ensure_identity, own_keys
from undersong.shared.ids import Digest, SiteId, digest_of
from undersong.shared.wire.manifest import LogHead, RoundManifest
from undersong.shared.wire.profiles import ConsentNote

if TYPE_CHECKING:
    from undersong.services.agent.consent.page import PageServer

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

REFUSED_PAUSE_S = (2.0, 60.0)  # first and longest pause after the coordinator refused us as a party
EXCLUDED = "excluded"  # the fact that holds the jobs which go on without this site
_EXCLUSION_LOOKS = 10  # polls without a task, after one with a task: a round's end comes after this site's part in it
LAST_WORD_S = 1.0  # to say which tasks are done before the agent stops, or that a change was found meanwhile
STOP_S = 8.0  # of the 10 s that a supervisor usually grants


class Agent:
    """One site's agent over its settings. `run` ends when it is cancelled."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._reader = SiteReader(settings)
        self._told: Digest | None = None  # the profile that the coordinator has
        self._consents: tuple[ConsentNote, ...] = ()  # as told
        self._mark = OwnerMark(settings.owner_mark)
        self._unsure = _EXCLUSION_LOOKS
        self._rested = True  # there was no task since memory was given back

    async def run(self) -> None:
        """Serve until cancelled; ConfigError or EnrolmentRefused when a person must act first."""
        settings = self._settings
        with alone(settings), processors.counted(), closing(SentMessages(settings.high_water)) as sent:
            state = AgentState(settings.data_dir)
            try:
                if state.keep_beside(sent):
                    log.warning(
                        "high_water.lost",
                        path=str(settings.high_water),
                        reason="the file that knows what this site has sent is gone: open rounds are given up",
                    )
                async with http_client(settings) as http:
                    await self._serve(http, state, sent)
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await self._reader.close()
                state.close()
                log.info("agent.stopped")

    async def _serve(self, http: httpx.AsyncClient, state: AgentState, sent: SentMessages) -> None:
        settings = self._settings
        folder = settings.data_dir / "identity"
        identity = await ensure_identity(
            http, settings.keys_url, folder, settings.enrol_token_file, patience_s=math.inf
        )
        token_file = settings.enrol_token_file
        keeper = IdentityKeeper(identity, folder, http, settings.keys_url, token_file=token_file)
        subject = identity.subject
        structlog.contextvars.bind_contextvars(site_id=subject.name)
        log.info("agent.started", federation_id=subject.federation_id, keyid=identity.keyid)
        who = (subject.name, str(subject.federation_id))
        await self._start(http, keeper, who)
        cache = ModelCache(settings.data_dir / "models", settings.model_cache_bytes)
        room = Room(settings.data_dir, cache.evict)
        platform = self._platform(http, keeper, cache)
        state.sweep_outbox()
        ledger = Ledger(state.store, LedgerMark(settings.high_water), sent)
        lost = LostRounds(ledger, platform.signatures.link, SiteId(subject.name))
        watch = LogWatch(
            state,
            platform.signatures.link,
            platform.signatures,
            subject.uri,
            lambda: own_keys(folder),
            every_s=settings.watch_log_s,
            rounds=lost.check,
            ledger_heads=LoggedHeads(ledger, platform.signatures).check,
        )
        heads = HeadCommitter(ledger, platform.signatures.link, keeper, settings.commit_ledger_s)
        await asyncio.to_thread(ledger.begin, self._reader.site.policy.privacy)

        async def settle() -> None:
            await asyncio.to_thread(ledger.try_settle, self._reader.site.policy.privacy)
            heads.wake.set()

        receipts = Receipts(
            state, platform.signatures.link, platform.signatures, SiteId(subject.name), watch.meet, settle
        )
        beside = [asyncio.create_task(each.run()) for each in (keeper, receipts, watch, heads)]
        page = await self._open_page(state)
        try:

            def answered() -> None:
                receipts.wake.set()
                heads.wake.set()

            performing = partial(self._tasks, platform, state, sent, room, ledger, answered, watch.meet)
            await self._work(platform, state, who, performing, room)
        finally:
            if page is not None:
                await asyncio.to_thread(page.close)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _tasks(
        self,
        platform: ServiceClients,
        state: AgentState,
        sent: SentMessages,
        room: Room,
        ledger: Ledger,
        answered: Callable[[], None],
        met: Callable[[LogHead | None], None],
    ) -> Tasks:
        reader = self._reader

        async def consent(policy: Policy, manifest: RoundManifest) -> None:
            try:
                await asyncio.to_thread(self._inbox(state).check, policy, manifest)
            except TaskFailure:
                with suppress(Away, RequestRefused):  # first, so that no attempt is planned with this site
                    await self._tell(platform.coordinator, state, within_s=LAST_WORD_S)
                raise

        return Tasks(platform, reader.runner, state, lambda: reader.site, sent, room, ledger, answered, met, consent)

    async def _open_page(self, state: AgentState) -> PageServer | None:
        """Serve the owner's inbox where agent.yaml asks for it; ConfigError where its port cannot be used."""
        settings, reader = self._settings, self._reader
        if settings.consent_page is None:
            return None
        from undersong.services.agent.consent.page import ConsentPage, PageServer  # only where it is used

        page = ConsentPage(settings, settings.consent_page, state.store, self._inbox(state), lambda: reader.site.policy)
        return await asyncio.to_thread(PageServer, page, settings.consent_page.port, settings.data_dir)

    def _inbox(self, state: AgentState) -> Inbox:
        return Inbox(state.store, self._settings.owners, self._mark)

    async def _notes(self, state: AgentState) -> tuple[ConsentNote, ...]:
        """Return for which jobs this site's owner has not consented, as the coordinator is told."""
        policy = self._reader.site.policy
        if not policy.consent.asked:
            return ()
        try:
            return await asyncio.to_thread(self._inbox(state).notes, policy)
        except OSError as error:  # the owners' file: rounds are refused meanwhile, and the agent goes on
            log.warning("consent.unknown", reason=str(error))
            return self._consents

    async def _work(
        self,
        platform: ServiceClients,
        state: AgentState,
        who: tuple[str, str],
        performing: Callable[[], Tasks],
        room: Room,
    ) -> None:
        try:
            await self._turns(platform, state, who, performing, room)
        finally:
            with suppress(Away, TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    await platform.coordinator.tell(within_s=LAST_WORD_S)

    async def _turns(
        self,
        platform: ServiceClients,
        state: AgentState,
        who: tuple[str, str],
        performing: Callable[[], Tasks],
        room: Room,
    ) -> None:
        resumed, refusals = False, 0
        while True:
            if self._reader.changed():  # what changed may take long to become readable
                await platform.coordinator.tell()
            await self._reader.refresh(who)
            try:
                if not resumed:
                    await performing().resume()
                    resumed = True
                await self._tell(platform.coordinator, state)
                await room.wait()
                if await self._turn(platform.coordinator, state, who, performing):
                    self._unsure = _EXCLUSION_LOOKS
                elif self._unsure:
                    self._unsure -= 1
                    await self._look_for_exclusions(platform.coordinator, state)
                refusals = 0
            except RequestRefused as problem:
                refusals += 1
                self._told = None
                first, longest = REFUSED_PAUSE_S
                pause_s = random.uniform(0.5, 1.0) * min(longest, first * 2.0 ** min(refusals - 1, 10))  # noqa: S311
                log.warning("agent.refused", reason=str(problem), pause_s=round(pause_s, 1))
                await asyncio.sleep(pause_s)

    async def _turn(
        self, coordinator: Coordinator, state: AgentState, who: tuple[str, str], performing: Callable[[], Tasks]
    ) -> bool:
        """Lease once, run the task if there is one, and return whether there was one.

        The request for a lease waits for up to half a minute. Files are looked at meanwhile, and again before the task:
        what the owner withdrew holds for this one already, and a site that cannot be read refuses it.
        """
        async with self._looking(coordinator, state, who):
            lease = await coordinator.lease()
            if not isinstance(lease, Lease):
                performing().forget_hopeless()
                await performing().settle()
                if not self._rested:
                    await asyncio.to_thread(give_back)
                    self._rested = True
                if lease.next_poll_s > 0:
                    await asyncio.sleep(lease.next_poll_s * random.uniform(0.8, 1.2))  # noqa: S311
                return False
        await self._reader.settle(who)
        if self._reader.fault is not None:
            await performing().refuse(
                lease, TaskFailure(self._reader.fault, "the site cannot be read: its log says why")
            )
        else:
            await performing().perform(lease)
            self._rested = False
        return True

    @asynccontextmanager
    async def _looking(self, coordinator: Coordinator, state: AgentState, who: tuple[str, str]) -> AsyncIterator[None]:
        """Read the site again, and tell it, within seconds of a change while the block waits."""
        over = asyncio.Event()
        looking = asyncio.create_task(self._look(coordinator, state, who, over))
        try:
            yield
            over.set()
            await asyncio.wait({looking})  # a reading that has begun is not cut off
            looking.result()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(
        self, coordinator: Coordinator, state: AgentState, who: tuple[str, str], over: asyncio.Event
    ) -> None:
        while not over.is_set():
            changed = self._reader.changed()
            if changed:
                await self._reader.refresh(who)
            if changed or await self._notes(state) != self._consents:
                with suppress(Away, RequestRefused):  # it is told at the next turn at the latest
                    await self._tell(coordinator, state, within_s=LAST_WORD_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):  # `wait_for` of Python 3.11 can swallow a cancellation
                    await over.wait()

    async def _look_for_exclusions(self, coordinator: Coordinator, state: AgentState) -> None:
        """Ask, after rounds that this site took part in, whether a job goes on without it; say so once."""
        try:
            found = await coordinator.exclusions()
        except (Away, RequestRefused, ValueError) as error:
            log.info("exclusions.unknown", reason=str(error))
            return
        known = state.fact(EXCLUDED)
        seen = {str(entry["round_id"]) for entry in known} if isinstance(known, list) else set()
        for exclusion in found:
            if exclusion.round_id not in seen:
                log.error("site.excluded", **exclusion.model_dump(mode="json"))
        told = [exclusion.model_dump(mode="json") for exclusion in found]
        if told != (known or []):
            await asyncio.to_thread(state.remember, EXCLUDED, told)

    async def _tell(self, coordinator: Coordinator, state: AgentState, *, within_s: float | None = None) -> None:
        """PUT the profile if the coordinator does not have it yet."""
        reader = self._reader
        alarms, consents = await asyncio.to_thread(Alarms(state).told), await self._notes(state)
        profile = reader.profile.model_copy(update={"alarms": alarms, "consents": consents})
        if state.fact("unread") != reader.unread:
            await asyncio.to_thread(state.remember, "unread", dict(reader.unread))
        digest = digest_of(profile.model_dump_json().encode())
        if digest != self._told:
            await coordinator.put_profile(profile, within_s=within_s)
            self._told, self._consents = digest, consents
            await asyncio.to_thread(state.remember, "profile_told_at", time.time())
            await asyncio.to_thread(state.remember, "closed", dict(reader.runner.closed))
            faults = [fault.sentence for fault in profile.faults]
            log.info("profile.told", recipes=len(profile.recipes), datasets=len(profile.datasets), faults=faults)

    async def _start(self, http: httpx.AsyncClient, keeper: IdentityKeeper, who: tuple[str, str]) -> None:
        """Read the site for the first time; where a person must act first, the platform is told so before the end."""
        try:
            await self._reader.start(who)
        except ConfigError as error:
            coordinator = Coordinator(Link(http, self._settings.coordinator_url, "coordinator", keeper))
            with suppress(Away, RequestRefused, TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    await coordinator.put_profile(
                        unreadable_profile(error, self._settings.runner), within_s=LAST_WORD_S
                    )
            raise

    def _platform(self, http: httpx.AsyncClient, keeper: IdentityKeeper, cache: ModelCache) -> ServiceClients:
        settings = self._settings
        keys = Link(http, settings.keys_url, "keys", keeper)
        directory = CertificateDirectory(http, settings.keys_url, keeper().ca_certificate)
        return ServiceClients(
            coordinator=Coordinator(Link(http, settings.coordinator_url, "coordinator", keeper)),
            aggregator=Aggregator(Link(http, settings.aggregator_url, "aggregator", keeper)),
            registry=Registry(Link(http, settings.registry_url, "registry", keeper), cache),
            signatures=Signatures(directory, keys),
            identity=keeper,
        )


@asynccontextmanager
async def http_client(settings: AgentSettings) -> AsyncIterator[httpx.AsyncClient]:
    """Open the client that every service of this agent shares."""
    urls = (settings.coordinator_url, settings.aggregator_url, settings.keys_url, settings.registry_url)
    async with make_client(settings.ca_file, urls, settings.ca_trust) as http:
        yield http


class alone:  # noqa: N801 (a context manager)
    """Hold the state folder; ConfigError if another agent has it."""

    def __init__(self, settings: AgentSettings) -> None:
        self._folder = settings.data_dir

    def __enter__(self) -> None:
        """Take the lock; the kernel frees it however this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._file = open_lock(self._folder / "agent.lock")
        except OSError as error:
            raise ConfigError(f"{self._folder / 'agent.lock'}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(f"{self._folder}: another agent is using this folder") from None

    def __exit__(self, *_: object) -> None:
        """Free the lock."""
        self._file.close()
