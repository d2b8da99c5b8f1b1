"""docs/agent-protocol.md holds: its worked examples are rebuilt here from its own words."""

import base64
import hashlib
import json
import re
import struct
from pathlib import Path

import httpx
import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undersong.services import agent
from undersong.services.agent.peers.link import RETRIED
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.wire.updates import parse_header, read_header

DOCUMENT = (Path(__file__).parents[3] / "docs" / "agent-protocol.md").read_text()
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def block(name: str) -> str:
    match = re.search(rf"```\w+ {name}\n(.*?)\n```", DOCUMENT, re.DOTALL)
    assert match, name
    return match[1]


def headers() -> dict[str, str]:
    return dict(line.split(": ", 1) for line in block("signature-headers").splitlines())


def test_the_signature_of_the_worked_example() -> None:
    """Digest, base and signature follow from the body and the key that the document names."""
    body, base, given = block("heartbeat-body").encode(), block("signature-base"), headers()
    assert set(json.loads(body)) == {"lease_token", "progress", "phase"}
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert given["Content-Digest"] == f"sha-256=:{digest}:"
    parameters = given["Signature-Input"].removeprefix("undersong=")
    assert base.splitlines()[-1] == f'"@signature-params": {parameters}'
    signature = base64.b64encode(KEY.sign(base.encode())).decode()
    assert given["Signature"] == f"undersong=:{signature}:"


def test_the_agents_own_requests_follow_the_document() -> None:
    """The same request, signed by the agent's code, has the document's form, and verifies by its rules."""
    from datetime import timedelta

    from undersong.shared.clock import utc_now
    from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject

    now = utc_now()
    authority = CertificateAuthority.create(now)
    certificate = authority.issue(KEY.public_key(), Subject("site", "s", "f"), now + timedelta(days=1), now=now)
    auth = SigningAuth(Identity(KEY, certificate, authority.certificate), "coordinator")
    path = re.search(r'"@path": (\S+)', block("signature-base"))
    assert path
    body = block("heartbeat-body").encode()
    kind = {"content-type": headers()["Content-Type"]}
    request = next(auth.sync_auth_flow(httpx.Request("POST", f"http://x{path[1]}", content=body, headers=kind)))
    parameters = request.headers["signature-input"].removeprefix("undersong=")
    blank = re.compile(r'created=\d+|nonce="[\w-]{22}"|keyid="[0-9a-f]{64}"')
    documented = headers()["Signature-Input"].removeprefix("undersong=")
    assert blank.sub("_", parameters) == blank.sub("_", documented)
    lines = [*block("signature-base").splitlines()[:-1], f'"@signature-params": {parameters}']
    signature = base64.b64decode(request.headers["signature"].removeprefix("undersong=:").removesuffix(":"))
    KEY.public_key().verify(signature, "\n".join(lines).encode())


def test_the_header_of_the_worked_example() -> None:
    """A stranger's encoder, written from the document, makes the documented bytes, and ours reads them."""
    written = bytes.fromhex(block("update-header").replace("\n", ""))
    fields = {
        "round_id": "rnd_01kb0000000000000000000000",
        "manifest_digest": "cd" * 32,
        "site_id": "site_01kb0000000000000000000000",
        "engine": "sealed",
        "kind": "train",
        "length": 22,
        "modulus_bits": 32,
        "metrics_layout": None,
        "material": {"chunk": 196608, "key": bytes(80)},
    }
    packed = msgpack.packb(fields)
    made = b"USU1" + struct.pack("<I", len(packed)) + packed
    made += bytes(-len(made) % 64)
    assert made == written
    header, offset = read_header(written)
    assert (header, offset) == (parse_header(packed), len(written))


def test_every_code_and_status_is_documented() -> None:
    """Codes that the agent's rules raise, and statuses that it asks again after, stand in the document."""
    folders = [Path(agent.__file__).parent / name for name in ("domain", "peers", "repository", "rounds")]
    source = "".join(path.read_text() for folder in folders for path in sorted(folder.glob("*.py")))
    codes = set(re.findall(r'(?:TaskFailure|Reason)\(\s*"([a-z-]+)"', source))
    documented = set(re.findall(r"`([a-z]+(?:-[a-z]+|-\*)*)`", DOCUMENT))
    families = tuple(code[:-1] for code in documented if code.endswith("*"))
    missing = {code for code in codes if code not in documented and not code.startswith(families)}
    assert missing == set()
    assert all(str(status) in DOCUMENT for status in RETRIED)
