"""Sign-on on a real platform: settings, the coordinator's process, an issuer over loopback, and the other services."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from tests.services.coordinator.issuer import CLIENT, SECRET, Issuer
from undersong.local import Platform
from undersong.local.forks import Forks

pytestmark = [pytest.mark.process, pytest.mark.exhaustive]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        made.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(made.application(), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield made
        server.should_exit = True
        thread.join(10)


def test_a_person_signs_on_and_every_service_knows_the_token(issuer: Issuer, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    settings = {
        "oidc_issuer": issuer.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret_file": str(tmp_path / "secret"),
        "oidc_roles": json.dumps({"fl-admins": "admin"}),
    }
    with Platform(tmp_path / "home", settings={"coordinator": settings}, forks=forks) as platform:
        models = f"{platform.urls['registry']}/v1/models"
        with httpx.Client(base_url=platform.urls["coordinator"], trust_env=False) as browser:
            begun = browser.get("/dashboard/sign-on", params={"next": "/dashboard/sites"}).headers["location"]
            back = httpx.get(begun, trust_env=False).headers["location"]
            assert "url=/dashboard/sites" in browser.get(back).text
            assert browser.get("/dashboard/sites").status_code == 200
            issuer.device_state = "confirmed"
            handle = browser.post("/v1/sign-on/devices").json()["handle"]
            token = browser.post("/v1/sign-on/tokens", json={"handle": handle}).json()["token"]["token"]
            person = {"authorization": f"Bearer {token}"}
            assert httpx.get(models, headers=person, trust_env=False).status_code == 200
            narrow = browser.post("/v1/tokens", headers=person, json={"name": "narrow", "scopes": ["jobs:read"]}).json()
            other = {"authorization": f"Bearer {narrow['token']}"}
            assert httpx.get(models, headers=other, trust_env=False).status_code == 403
