"""Make every secret of a compose deployment, once: each service gets only its own, in its own volume.

Runs in a container without network that ends at once. `/secrets/<name>` is one volume each; a volume that has its
secrets already is left alone, so the command can run at every start. `--renew` makes new passwords for the services
and keeps the rest. No password has a default, and none leaves the volumes.
"""

import hashlib
import os
import secrets
import sys
from pathlib import Path

ROOT = Path("/secrets")
SERVICES = ("coordinator", "aggregator", "keys", "registry", "helper")
HANDED_OUT = ("coordinator", "aggregator", "registry", "helper")  # they enrol at keys with a token
SERVICE_USER = 10001
STATEMENTS = """\
SELECT 'CREATE ROLE {name}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec
ALTER ROLE {name} LOGIN PASSWORD '{password}' NOSUPERUSER NOCREATEDB NOCREATEROLE;
SELECT 'CREATE DATABASE {name} OWNER {name}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec
REVOKE ALL ON DATABASE {name} FROM PUBLIC;
"""
DONE = "made"  # written last: a half-made volume is made again


def write(path: Path, text: str, owner: int, mode: int) -> None:
    """Write a file whole, with its owner and mode."""
    fresh = path.with_name(path.name + ".part")
    fresh.write_text(text)
    os.chown(fresh, owner, owner)
    fresh.chmod(mode)
    fresh.rename(path)


def for_service(service: str, database: str, redis: str) -> None:
    """The files that the service's settings read from /run/secrets, readable by its user only."""
    folder = ROOT / service
    files = {
        f"{service}_database_url": f"postgresql+psycopg://{service}:{database}@postgres:5432/{service}",
        f"{service}_redis_url": f"redis://{service}:{redis}@redis:6379/0",
    }
    if not (folder / "seal-key").exists():  # what is sealed already must open for ever
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
    """The superuser's password, and the statements that make one role and one database a service."""
    statements = [STATEMENTS.format(name=name, password=password) for name, password in passwords.items()]
    if not (ROOT / "postgres" / "password").exists():
        write(ROOT / "postgres" / "password", secrets.token_hex(24), 0, 0o444)
    write(ROOT / "postgres" / "databases.sql", "".join(statements), 0, 0o444)


def main() -> None:
    """Make what is not there."""
    mark = ROOT / "postgres" / DONE
    complete = mark.exists() and all((ROOT / service / "seal-key").exists() for service in SERVICES)
    if complete and "--renew" not in sys.argv:
        return
    database = {service: secrets.token_hex(24) for service in SERVICES}
    redis = {service: secrets.token_hex(24) for service in SERVICES}
    for service in SERVICES:
        for_service(service, database[service], redis[service])
    for service in HANDED_OUT:
        os.chown(ROOT / "handout" / service, SERVICE_USER, SERVICE_USER)
        (ROOT / "handout" / service).chmod(0o700)
    for_redis(redis)
    for_postgres(database)
    write(mark, "", 0, 0o444)


if __name__ == "__main__":
    main()
