"""Certificates for hosts' names: who believes which, when they are made again, and how a server takes up a new one."""

import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509

from undersong.shared.identity.authority import CertificateUntrusted, check_certificate
from undersong.shared.identity.transport import CA_FILE, CA_KEY_FILE, ServerTls, TransportAuthority, trust

NOW = datetime.now(UTC)
NAMES = ("127.0.0.1", "edge.example")


@pytest.fixture
def authority(tmp_path: Path) -> TransportAuthority:
    return TransportAuthority.ensure(tmp_path, NOW)


@contextmanager
def listening(tls: ServerTls) -> Iterator[int]:
    """A server that greets every client that completes a handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                    with tls.context.wrap_socket(raw, server_side=True) as held:
                        held.sendall(b"hello")
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = Thread(target=greet, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def shown(port: int, ca_file: Path, name: str = "127.0.0.1") -> x509.Certificate:
    """The certificate that the server shows to a client which believes this file."""
    context = trust(ca_file, ["https://x"])
    assert isinstance(context, ssl.SSLContext)
    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw, server_hostname=name) as held:
        assert held.recv(5) == b"hello"
        return x509.load_der_x509_certificate(held.getpeercert(binary_form=True) or b"")


def test_a_client_believes_its_authority_and_the_right_name_only(authority: TransportAuthority, tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_bytes(authority.issue(NAMES, NOW))
    TransportAuthority.ensure(tmp_path / "stranger", NOW)
    with listening(ServerTls(file)) as port:
        shown(port, tmp_path / CA_FILE)
        shown(port, tmp_path / CA_FILE, "edge.example")
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            shown(port, tmp_path / CA_FILE, "other.example")
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(port, tmp_path / "stranger" / CA_FILE)


def test_a_server_takes_up_a_new_certificate_and_survives_a_broken_file(
    authority: TransportAuthority, tmp_path: Path
) -> None:
    file = tmp_path / "server.pem"
    file.write_bytes(authority.issue(NAMES, NOW))
    ends: list[datetime] = []
    tls = ServerTls(file, ends.append)
    with listening(tls) as port:
        first = shown(port, tmp_path / CA_FILE)
        file.write_bytes(b"half a file")
        with pytest.raises(ssl.SSLError):
            tls.refresh()
        assert shown(port, tmp_path / CA_FILE) == first
        file.write_bytes(authority.issue(NAMES, NOW, timedelta(days=2)))
        assert tls.refresh()
        assert not tls.refresh()
        second = shown(port, tmp_path / CA_FILE)
    assert second.public_key() != first.public_key()
    assert ends == [first.not_valid_after_utc, second.not_valid_after_utc]


def test_it_is_made_again_only_when_it_must_be(authority: TransportAuthority, tmp_path: Path) -> None:
    present = authority.issue(NAMES, NOW)
    assert authority.renewed(present, NAMES[::-1], NOW) is None
    assert authority.renewed(None, NAMES, NOW)
    assert authority.renewed(present, ("127.0.0.1",), NOW)
    assert authority.renewed(present, NAMES, NOW + timedelta(days=270))
    assert TransportAuthority.replace(tmp_path, NOW).renewed(present, NAMES, NOW)


def test_a_new_authority_is_trusted_beside_the_old_one(authority: TransportAuthority, tmp_path: Path) -> None:
    """Clients with the new file trust servers of both; nothing stops while certificates are exchanged."""
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    old.write_bytes(authority.issue(NAMES, NOW))
    new.write_bytes(TransportAuthority.replace(tmp_path, NOW).issue(NAMES, NOW))
    for file in (old, new):
        with listening(ServerTls(file)) as port:
            shown(port, tmp_path / CA_FILE)


def test_the_authoritys_key_is_its_owners(authority: TransportAuthority, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / CA_KEY_FILE).stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / CA_FILE).read_bytes()
    assert TransportAuthority.ensure(tmp_path, NOW).certificate == authority.certificate


def test_a_hosts_certificate_names_no_party(authority: TransportAuthority) -> None:
    """What serves TLS can sign nothing in the federation's name, even if its authority were believed."""
    certificate = x509.load_pem_x509_certificate(authority.issue(NAMES, NOW))
    with pytest.raises(CertificateUntrusted):
        check_certificate(certificate, authority.certificate)


def test_plain_addresses_need_no_trust() -> None:
    assert trust(None, ["http://127.0.0.1:1"]) is False
