"""Make every secret of a compose deployment, once: each service gets only its own, in its own volume.

Runs in a container without network that ends at once. `/secrets/<name>` is one volume each; a volume that has its
secrets already is left alone, so the command can run at every start. It is also the transport authority: certificates
for TLS are made here, and again when a third of their life is left; the authority's key lies in a volume that no other
container mounts (decision 0011). No password has a default, and none leaves the volumes.
"""

import argparse
import hashlib
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from undersong.shared.identity.sealing import add_key, drop_old_keys
from undersong.shared.identity.transport import CA_FILE, TLS_FILE, TransportAuthority

ROOT = Path("/secrets")
SERVICES = ("coordinator", "aggregator", "keys", "registry", "helper")
HANDED_OUT = ("coordinator", "aggregator", "registry", "helper")  # they enrol at keys with a token
SERVICE_USER = 10001
EDGE_USER = 10002
KEYCLOAK_USER = 1000
KEYCLOAK = "id.undersong.localhost"  # browsers find it on their own machine, the coordinator in its network
LOOPBACK = ("localhost", "127.0.0.1", "::1")
STATEMENTS = """\
SELECT 'CREATE ROLE {name}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec
ALTER ROLE {name} LOGIN PASSWORD '{password}' NOSUPERUSER NOCREATEDB NOCREATEROLE;
SELECT 'CREATE DATABASE {name} OWNER {name}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec
REVOKE ALL ON DATABASE {name} FROM PUBLIC;
"""
DONE = "made-2"  # written last: a half-made volume is made again; the number changes with what the files say


def write(path: Path, text: str | bytes, owner: int, mode: int) -> None:
    """Write a file whole, with its owner and mode."""
    fresh = path.with_name(path.name + ".part")
    fresh.write_bytes(text.encode() if isinstance(text, str) else text)
    os.chown(fresh, owner, owner)
    fresh.chmod(mode)
    fresh.rename(path)


def for_service(service: str, database: str, redis: str) -> None:
    """Write the files that the service's settings read from /run/secrets, readable by its user only."""
    folder = ROOT / service
    files = {
        f"{service}_database_url": f"postgresql+psycopg://{service}:{database}@postgres:5432/{service}"
        "?sslmode=verify-full&sslrootcert=/run/secrets/ca.pem",
        f"{service}_redis_url": f"rediss://{service}:{redis}@redis:6379/0?ssl_ca_certs=/run/secrets/ca.pem",
    }
    if not (folder / "seal-key").exists():  # secrets at rest are already encrypted with it
        files["seal-key"] = secrets.token_hex(32) + "\n"
    for name, text in files.items():
        write(folder / name, text, SERVICE_USER, 0o400)
    os.chown(folder, SERVICE_USER, SERVICE_USER)
    folder.chmod(0o500)


def for_redis(passwords: dict[str, str]) -> None:
    """One user a service, no default user; a user that may only ask whether the server lives."""
    lines = ["user default off", "user health on nopass resetkeys resetchannels -@all +ping"]
    for service, password in passwords.items():
        digest = hashlib.sha256(password.encode()).hexdigest()
        lines.append(f"user {service} on #{digest} ~undersong:* &undersong:* +@all -@admin -@dangerous")
    # The redis image's user differs between images; only the redis container mounts this volume.
    write(ROOT / "redis" / "users.acl", "\n".join(lines) + "\n", 0, 0o444)


def for_postgres(passwords: dict[str, str]) -> None:
    """Write the superuser's password, and the statements that make one role and one database a service."""
    statements = [STATEMENTS.format(name=name, password=password) for name, password in passwords.items()]
    if not (ROOT / "postgres" / "password").exists():
        write(ROOT / "postgres" / "password", secrets.token_hex(24), 0, 0o444)
    write(ROOT / "postgres" / "databases.sql", "".join(statements), 0, 0o444)


def certify(*, anew: bool = False, new_authority: bool = False) -> None:
    """Write a certificate for every server that has none which lasts, and the authority's own for everyone."""
    now = datetime.now(UTC)
    folder = ROOT / "transport-ca"
    authority = TransportAuthority.replace(folder, now) if new_authority else TransportAuthority.ensure(folder, now)
    folder.chmod(0o700)
    bundle = (folder / CA_FILE).read_bytes()
    outside = [name for name in os.environ.get("UNDERSONG_TLS_NAMES", "").replace(",", " ").split() if name]
    # The images' users of PostgreSQL and Redis differ; each one's volume is mounted by it alone.
    servers = {name: (f"{name}-api", SERVICE_USER, 0o400) for name in SERVICES}
    servers["helper"] = ("keys-helper", SERVICE_USER, 0o400)
    servers |= {"postgres": ("postgres", 0, 0o444), "redis": ("redis", 0, 0o444), "edge": ("edge", EDGE_USER, 0o400)}
    for name, (host, owner, mode) in servers.items():
        file = ROOT / name / TLS_FILE
        names = [host, *LOOPBACK, *(outside if name == "edge" else ())]
        fresh = authority.renewed(file.read_bytes() if file.exists() and not anew else None, names, now)
        if fresh is not None:
            write(file, fresh, owner, mode)
    for_sign_on(authority, anew=anew, now=now)
    for name in (*servers, "trust"):
        file = ROOT / name / CA_FILE
        if not file.exists() or file.read_bytes() != bundle:
            write(file, bundle, 0, 0o444)


def for_sign_on(authority: TransportAuthority, *, anew: bool, now: datetime) -> None:
    """Write what Keycloak and the coordinator need, where deploy/compose.sso.yml mounts a volume for them."""
    folder = ROOT / "keycloak"
    if not folder.is_dir():
        return
    secret = folder / "oidc-client-secret"
    if not secret.exists():
        write(secret, secrets.token_hex(32), KEYCLOAK_USER, 0o400)
        write(folder / "admin-password", secrets.token_hex(24), KEYCLOAK_USER, 0o400)
    write(ROOT / "coordinator" / secret.name, secret.read_bytes(), SERVICE_USER, 0o400)
    file = folder / TLS_FILE
    present = file.read_bytes() if file.exists() and not anew else None
    fresh = authority.renewed(present, [KEYCLOAK, *LOOPBACK], now)
    if fresh is not None:
        write(file, fresh, KEYCLOAK_USER, 0o400)
        split = fresh.index(b"-----BEGIN CERTIFICATE-----")
        write(folder / "key.pem", fresh[:split], KEYCLOAK_USER, 0o400)
        write(folder / "certificate.pem", fresh[split:], KEYCLOAK_USER, 0o400)


def passwords() -> None:
    """Make new ones for every service, at PostgreSQL and Redis; `databases` and Redis take them up when they start."""
    database = {service: secrets.token_hex(24) for service in SERVICES}
    redis = {service: secrets.token_hex(24) for service in SERVICES}
    for service in SERVICES:
        for_service(service, database[service], redis[service])
    for service in HANDED_OUT:
        os.chown(ROOT / "handout" / service, SERVICE_USER, SERVICE_USER)
        (ROOT / "handout" / service).chmod(0o700)
    for_redis(redis)
    for_postgres(database)
    write(ROOT / "postgres" / DONE, "", 0, 0o444)


def change_key_files(change: Callable[[Path], None]) -> None:
    """Change each service's key file and give it back to its reader."""
    for service in SERVICES:
        file = ROOT / service / "seal-key"
        change(file)
        os.chown(file, SERVICE_USER, SERVICE_USER)
        file.chmod(0o400)


def main() -> None:
    """Make what is not there, and what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true", help="new passwords for the services")
    parser.add_argument("--renew-certificates", action="store_true", help="new keys and certificates for TLS")
    parser.add_argument("--new-authority", action="store_true", help="a new transport authority beside the old one")
    parser.add_argument("--new-seal-keys", action="store_true", help="a new key for secrets at rest")
    parser.add_argument("--drop-old-seal-keys", action="store_true", help="forget keys older than the one before")
    chosen = parser.parse_args()
    complete = all((ROOT / service / "seal-key").exists() for service in SERVICES)
    if chosen.renew or not (complete and (ROOT / "postgres" / DONE).exists()):
        passwords()
    certify(anew=chosen.renew_certificates, new_authority=chosen.new_authority)
    if chosen.new_seal_keys:
        change_key_files(add_key)
    if chosen.drop_old_seal_keys:
        change_key_files(drop_old_keys)


if __name__ == "__main__":
    main()
