"""What only one of two servers may know of a round: opened here with the keys of both, to look for it elsewhere."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from undersong.shared.identity.sealing import Sealer
from undersong.shared.secagg.engine import ServerRound
from undersong.shared.secagg.fold import BytesSource
from undersong.shared.secagg.twoserver.helper import HelperKeys
from undersong.shared.secagg.twoserver.leader import LeaderState, leader_share
from undersong.shared.secagg.twoserver.report import Report, share_info, unseal
from undersong.shared.secagg.twoserver.roles import HELPER
from undersong.shared.secagg.twoserver.schemes import scheme_for
from undersong.shared.wire.manifest import RoundManifest, SignedManifest
from undersong.shared.wire.updates import read_header


@dataclass
class Secrets:
    """Of all rounds together. Shares are of single sites' updates, as the server that may open them sees them."""

    leader_keys: set[bytes] = field(default_factory=set)
    helper_keys: set[bytes] = field(default_factory=set)
    leader_shares: set[bytes] = field(default_factory=set)
    helper_shares: set[bytes] = field(default_factory=set)


class BothServers:
    """Keeps the sealed states of the leader's rounds and the bodies that its store holds while a job runs."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._states: dict[str, tuple[str, bytes]] = {}  # round → manifest, sealed state with the verification key
        self._bodies: dict[str, bytes] = {}

    def look(self) -> None:
        """Keep what is there now."""
        query = "SELECT id, manifest, engine_secret FROM rounds WHERE engine_secret IS NOT NULL"
        self._states |= {row[0]: (row[1], row[2]) for row in self._rows("aggregator", query)}
        for (digest,) in self._rows("aggregator", "SELECT digest FROM contributions"):
            file = self._home / "aggregator" / "blobs" / digest[:2] / digest
            if digest not in self._bodies and file.exists():
                self._bodies[digest] = file.read_bytes()

    def _rows(self, service: str, query: str) -> list[tuple]:
        file = self._home / service / f"{service}.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as db:
            return db.execute(query).fetchall()

    def secrets(self) -> Secrets:
        """Open everything, each part with the keys of the server that may."""
        found = Secrets()
        helper = Sealer(self._home / "secrets" / "helper-seal-key")
        keys: dict[str, HelperKeys] = {}
        for round_id, sealed, signed in self._rows("helper", "SELECT id, keys, manifest FROM rounds"):
            keys[round_id] = HelperKeys.unpack(helper.open(sealed, "rounds", round_id, "keys"))
            found.helper_keys |= {keys[round_id].private_key, keys[round_id].verify_key, keys[round_id].noise_key}
            self._open_helper_shares(found, SignedManifest.model_validate_json(signed).manifest, keys[round_id])
        aggregator = Sealer(self._home / "secrets" / "aggregator-seal-key")
        for round_id, (manifest, sealed) in self._states.items():
            if round_id in keys:
                state = aggregator.open(sealed, "rounds", round_id, "engine_secret")
                found.leader_keys |= {LeaderState.unpack(state).private_key, LeaderState.unpack(state).noise_key}
                self._open_leader_shares(found, RoundManifest.model_validate_json(manifest), state)
        return found

    def _open_helper_shares(self, found: Secrets, manifest: RoundManifest, keys: HelperKeys) -> None:
        query = f"SELECT site_id, report_id, helper_share FROM reports WHERE round_id = '{manifest.round_id}'"
        for site_id, report_id, sealed in self._rows("helper", query):
            info = share_info(manifest, site_id, bytes.fromhex(report_id), HELPER)
            found.helper_shares.add(unseal(sealed, keys.private_key, info))

    def _open_leader_shares(self, found: Secrets, manifest: RoundManifest, state: bytes) -> None:
        for body in self._bodies.values():
            header, offset = read_header(body)
            if header.round_id == manifest.round_id:
                report, scheme = Report.of(header), scheme_for(manifest, header.length)
                server_round = ServerRound(manifest, state)
                found.leader_shares.add(leader_share(server_round, report, scheme, BytesSource(body, offset)))
