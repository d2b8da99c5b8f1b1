"""Prio3 equals every published vector byte for byte, and fails exactly where a vector says it must."""

from pathlib import Path
from typing import Any

import pytest

from tests.shared.vdaf.published import names, read
from undersong.shared.vdaf import prio3
from undersong.shared.vdaf.circuits import Circuit
from undersong.shared.vdaf.errors import VdafMalformed, VdafRejected
from undersong.shared.vdaf.field import FIELD128, Vector
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.gadgets import Polynomial
from undersong.shared.vdaf.vdaf import VerifyState

PARAMETERS = ("length", "max_measurement", "max_weight", "chunk_length")
FIELDS = {"Field64": FIELD64, "Field128": FIELD128}
State = dict[tuple[int, int], VerifyState]


class HigherDegree(Circuit):
    """The draft's own test circuit: x (x - 1) (x - 2)."""

    field, gadget = FIELD64, Polynomial((0, 2, -3, 1))
    calls = measurement_length = output_length = 1

    def encode(self, measurement: int) -> Vector:
        return self.field.vector([measurement])

    def truncate(self, encoded: Vector) -> Vector:
        return encoded

    def decode(self, aggregate: Vector) -> int:
        return self.field.integers(aggregate)[0]

    def inputs(self, wires: Vector, encoded: Vector, joint_rand: Vector, shares: int) -> None:
        wires[0, 0:1] = encoded

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        return self.field.integers(results)


def build(name: str, vector: dict[str, Any]) -> prio3.Prio3:
    shares, parameters = vector["shares"], {key: vector[key] for key in PARAMETERS if key in vector}
    if name == "Prio3HigherDegree":
        return prio3.Prio3(0xFFFFFFFF, HigherDegree(), shares)
    if name == "Prio3SumVecWithMultiproof":
        field, proofs = FIELDS[vector.get("field", "Field64")], vector.get("proofs", 3)
        return prio3.Prio3SumVecWithMultiproof(shares, field=field, num_proofs=proofs, **parameters)
    scheme: prio3.Prio3 = getattr(prio3, name)(shares, **parameters)
    return scheme


class Scenario:
    """The operations of one vector."""

    def __init__(self, scheme: prio3.Prio3, vector: dict[str, Any]) -> None:
        self.scheme, self.vector, self.states = scheme, vector, State()
        self.ctx, self.key = bytes.fromhex(vector["ctx"]), bytes.fromhex(vector["verify_key"])

    def shard(self, step: dict[str, Any]) -> None:
        report = self.report(step)
        nonce, rand = bytes.fromhex(report["nonce"]), bytes.fromhex(report["rand"])
        public_share, input_shares = self.scheme.shard(self.ctx, report["measurement"], nonce, rand)
        assert public_share.hex() == report["public_share"]
        assert [share.hex() for share in input_shares] == report["input_shares"]

    def verify_init(self, step: dict[str, Any]) -> None:
        report, agg_id = self.report(step), step["aggregator_id"]
        nonce, public, share = (
            bytes.fromhex(text) for text in (report["nonce"], report["public_share"], report["input_shares"][agg_id])
        )
        state, verifier = self.scheme.verify_init(self.key, self.ctx, agg_id, None, nonce, public, share)
        assert verifier.hex() == report["verifier_shares"][0][agg_id]
        self.states[step["report_index"], agg_id] = self.scheme.decode_state(self.scheme.encode_state(state))

    def verifier_shares_to_message(self, step: dict[str, Any]) -> None:
        report = self.report(step)
        shares = [bytes.fromhex(share) for share in report["verifier_shares"][0]]
        message = self.scheme.verifier_shares_to_message(self.ctx, None, shares)
        assert message.hex() == report["verifier_messages"][0]

    def verify_next(self, step: dict[str, Any]) -> None:
        report, agg_id = self.report(step), step["aggregator_id"]
        state = self.states[step["report_index"], agg_id]
        out_share = self.scheme.verify_next(self.ctx, state, bytes.fromhex(report["verifier_messages"][0]))
        assert self.scheme.encode_out_share(out_share).hex() == report["out_shares"][agg_id]

    def aggregate(self, step: dict[str, Any]) -> None:
        agg_id, total = step["aggregator_id"], self.scheme.agg_init(None)
        for report in self.vector["reports"]:
            share = bytes.fromhex(report["out_shares"][agg_id])
            self.scheme.agg_update(total, self.scheme.decode_out_share(share))
        assert self.scheme.encode_agg_share(total).hex() == self.vector["agg_shares"][agg_id]

    def unshard(self, step: dict[str, Any]) -> None:
        shares = [self.scheme.decode_agg_share(bytes.fromhex(share)) for share in self.vector["agg_shares"]]
        assert self.scheme.unshard(None, shares, len(self.vector["reports"])) == self.vector["agg_result"]

    def report(self, step: dict[str, Any]) -> dict[str, Any]:
        report: dict[str, Any] = self.vector["reports"][step["report_index"]]
        return report


@pytest.mark.parametrize("path", names("vdaf/Prio3*.json"))
def test_equals_the_published_vector(path: Path) -> None:
    vector = read(path)
    play = Scenario(build(path.stem.split("_")[0], vector), vector)
    for step in vector["operations"]:
        operation = getattr(play, step["operation"])
        if step["success"]:
            operation(step)
        else:
            with pytest.raises((VdafRejected, VdafMalformed)):
                operation(step)
