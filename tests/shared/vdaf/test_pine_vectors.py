"""PINE equals every published vector byte for byte, from sharding to the result."""

from pathlib import Path

import numpy as np
import pytest

from tests.shared.vdaf.published import names, read
from undersong.shared.vdaf import pine_instances


@pytest.mark.parametrize("path", names("pine/Pine*.json"))
def test_equals_the_published_vector(path: Path) -> None:
    vector = read(path)
    scheme = getattr(pine_instances, path.stem.split("_")[0])(
        l2_norm_bound=vector["l2_norm_bound"],
        num_frac_bits=vector["num_frac_bits"],
        dimension=vector["dimension"],
        chunk_length=vector["chunk_length"],
        chunk_length_norm_equality=vector["chunk_length_norm_equality"],
        num_shares=vector["shares"],
        num_proofs=vector["proofs"],
        num_proofs_norm_equality=vector["proofs_norm_equality"],
        alpha=vector["alpha"],
        num_wr_checks=vector["num_wr_checks"],
        num_wr_successes=vector["num_wr_successes"],
    )
    verify_key = bytes.fromhex(vector["verify_key"])
    totals = [scheme.agg_init(None) for _ in range(scheme.SHARES)]
    for report in vector["prep"]:
        nonce, rand = bytes.fromhex(report["nonce"]), bytes.fromhex(report["rand"])
        public_share, input_shares = scheme.shard(b"", report["measurement"], nonce, rand)
        assert public_share.hex() == report["public_share"]
        assert [share.hex() for share in input_shares] == report["input_shares"]
        prepared = [
            scheme.verify_init(verify_key, b"", agg_id, None, nonce, public_share, share)
            for agg_id, share in enumerate(input_shares)
        ]
        assert [share.hex() for _, share in prepared] == report["prep_shares"][0]
        message = scheme.verifier_shares_to_message(b"", None, [share for _, share in prepared])
        assert message.hex() == report["prep_messages"][0]
        for agg_id, (state, _) in enumerate(prepared):
            out_share = scheme.verify_next(b"", scheme.decode_state(scheme.encode_state(state)), message)
            assert scheme.encode_out_share(out_share).hex() == "".join(report["out_shares"][agg_id])
            scheme.agg_update(totals[agg_id], out_share)
    assert [scheme.encode_agg_share(total).hex() for total in totals] == vector["agg_shares"]
    assert np.array_equal(scheme.unshard(None, totals, len(vector["prep"])), vector["agg_result"])
