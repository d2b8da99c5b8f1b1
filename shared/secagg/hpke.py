"""The one HPKE suite (RFC 9180) that keys and shares are sealed with, in base mode.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
"""

from typing import Final

from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
