"""The oneshot engine at the seam (`undersong.shared.secagg.engine`).

Experimental: each site encrypts its vector under a fresh key (Ring-LWE), deals that key to several custodians, and
sends one message. Ciphertexts are added by the aggregator; any t custodians open the sum of keys over one witnessed
set of sites, and so the sum of vectors. Sites that drop out leave nothing behind.
Sources: homomorphic sums under sums of keys as in Regev (2009); one-shot private aggregation after Karthikeyan and
Polychroniadou, OPA (2024); revealing the sum of errors is priced into sigma as hint-RLWE (Kim, Lee, Seo and Song,
CRYPTO 2023). decision 0037 has parameters and their estimate.
"""

from typing import Final

from undersong.shared.secagg.engine import Engine
from undersong.shared.secagg.oneshot.client import OneshotSignatures, OneshotSite
from undersong.shared.secagg.oneshot.facts import FACTS
from undersong.shared.secagg.oneshot.server import OneshotServer

ONESHOT: Final = Engine(facts=FACTS, server=OneshotServer(), client=OneshotSite(), signing=OneshotSignatures())
