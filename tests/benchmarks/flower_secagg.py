"""One client of Flower's SecAgg+ through all its stages; run by the peer's own Python, prints CPU seconds.

The mod's own stage functions are called in the order `secaggplus_mod` calls them; messages and the workflow are left
out, so the peer is not charged for its server. Arguments: clients, parameters, threshold.
"""

import importlib
import sys
import time

import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto import symmetric_encryption as crypto
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.supercore.primitives import asymmetric

# The package offers a function of the same name, which hides the module from an ordinary import.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")


def main(clients: int, parameters: int, threshold: int) -> float:
    """CPU seconds of node 0."""
    update = ndarrays_to_parameters([np.random.default_rng(1).normal(0, 0.01, parameters).astype(np.float32)])
    pairs = {i: (asymmetric.generate_key_pairs(), asymmetric.generate_key_pairs()) for i in range(1, clients)}
    keys = {
        str(i): [asymmetric.public_key_to_bytes(a[1]), asymmetric.public_key_to_bytes(b[1])]
        for i, (a, b) in pairs.items()
    }
    config = {
        Key.SAMPLE_NUMBER: clients,
        Key.SHARE_NUMBER: clients,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 2**22,
        Key.MOD_RANGE: 2**32,
        Key.MAX_WEIGHT: 1000.0,
    }
    state = mod.SecAggPlusState()
    began = time.process_time()
    said = mod._setup(state, config)
    took = time.process_time() - began
    keys = {"0": [said[Key.PUBLIC_KEY_1], said[Key.PUBLIC_KEY_2]], **keys}
    began = time.process_time()
    mod._share_keys(state, keys)
    took += time.process_time() - began
    own = asymmetric.bytes_to_public_key(state.pk2)
    share = state.rd_seed_share_dict[0]
    envelopes = [
        crypto.encrypt(crypto.generate_shared_key(b[0], own), share_keys_plaintext_concat(i, 0, share, share))
        for i, (_, b) in pairs.items()
    ]
    began = time.process_time()
    delivered = {Key.CIPHERTEXT_LIST: envelopes, Key.SOURCE_LIST: list(pairs)}
    mod._collect_masked_vectors(state, delivered, 1, update)
    mod._unmask(state, {Key.ACTIVE_NODE_ID_LIST: list(range(clients)), Key.DEAD_NODE_ID_LIST: []})
    return took + time.process_time() - began


if __name__ == "__main__":
    print(main(*(int(argument) for argument in sys.argv[1:4])))
