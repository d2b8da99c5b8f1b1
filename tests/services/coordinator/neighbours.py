"""Aggregator, keys and registry as the coordinator's tests need them: by the contract, and difficult on demand."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from undersong.shared.ids import new_id
from undersong.shared.learning import score_bins


@dataclass
class Neighbours:
    """Aggregator and registry by the contract, with every way to be difficult."""

    rounds: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    sheets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    metrics: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    away: bool = False
    sites: dict[str, int] = field(default_factory=dict)
    keys_away: bool = False
    certificates: list[dict[str, Any]] = field(default_factory=list)
    invitations: dict[str, dict[str, Any]] = field(default_factory=dict)
    log_size: int = 7
    loss: float = 0.5
    epoch: int = 1
    scored: list[float] = field(
        default_factory=lambda: score_bins.sums(np.arange(20) < 9, np.where(np.arange(20) < 9, 0.75, 0.25)).tolist()
    )
    add_up: Callable[[dict[str, Any]], list[float]] = lambda manifest: [4.0, 2.0, 1.0]

    async def commit(self, request: Request) -> JSONResponse:
        self.calls.append("commit")
        if self.keys_away:
            return self._problem(503, "away")
        commitment = hashlib.sha256(request.path_params["id"].encode()).hexdigest()
        return JSONResponse({"commitment": commitment, "epoch": self.epoch}, 201)

    async def invite(self, request: Request) -> JSONResponse:
        if self.keys_away:
            return self._problem(503, "away")
        key = request.headers["idempotency-key"]
        made = {"id": f"tok_{len(self.invitations)}", "token": "use_" + secrets.token_urlsafe(32)}
        made |= {"expires_at": "2099-01-01T00:00:00Z", "needs_approval": True, "asked": await request.json()}
        return JSONResponse(self.invitations.setdefault(key, made), 201)

    async def directory(self, request: Request) -> JSONResponse:
        if self.keys_away:
            return self._problem(503, "away")
        name = request.query_params.get("name")
        found = [each for each in self.certificates if name in (None, each["name"])]
        return JSONResponse({"items": found, "next": None})

    async def head(self, request: Request) -> JSONResponse:
        if self.keys_away:
            return self._problem(503, "away")
        root, keyid, signature = (letter * size for letter, size in (("a", 64), ("b", 64), ("c", 128)))
        size = {"size": self.log_size, "timestamp_ms": 1}
        return JSONResponse({**size, "root": root, "keyid": keyid, "signature": signature})

    async def lose(self, request: Request) -> JSONResponse:
        self.calls.append("lose")
        found = self.rounds[request.path_params["id"]]
        found["lost"] = sorted({*found.get("lost", []), *(await request.json())["sites"]})
        return JSONResponse({"state": found["state"]})

    def application(self) -> Starlette:
        routes = [
            Route("/v1/log/head", self.head, methods=["GET"]),
            Route("/v1/invitations", self.invite, methods=["POST"]),
            Route("/v1/certificates", self.directory, methods=["GET"]),
            Route("/v1/rounds/{id}", self.put_round, methods=["PUT"]),
            Route("/v1/rounds/{id}", self.get_round, methods=["GET"]),
            Route("/v1/rounds/{id}/nonce-commitments", self.commit, methods=["POST"]),
            Route("/v1/rounds/{id}/lost", self.lose, methods=["POST"]),
            Route("/v1/rounds/{id}/close", self.close, methods=["POST"]),
            Route("/v1/rounds/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/models", self.post_model, methods=["POST"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{id}", self.get_model, methods=["GET"]),
            Route("/v1/versions/{id}", self.get_version, methods=["GET"]),
            Route("/v1/versions/{id}/datasheet", self.get_sheet, methods=["GET"]),
            Route("/v1/versions/{id}/datasheet", self.put_sheet, methods=["PUT"]),
            Route("/v1/datasheets/stale", self.list_stale, methods=["GET"]),
            Route("/v1/versions/{id}/metrics", self.post_metrics, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _problem(self, status: int, reason: str) -> JSONResponse:
        return JSONResponse({"type": f"urn:undersong:problem:{reason}", "detail": reason, "status": status}, status)

    async def put_round(self, request: Request) -> JSONResponse:
        self.calls.append("open")
        if self.away:
            return self._problem(503, "away")
        signed = await request.json()
        known = self.rounds.setdefault(
            request.path_params["id"], {"manifest": signed, "state": "collecting", "got": 0, "result": None}
        )
        if known["manifest"] != signed:
            return self._problem(409, "manifest-differs")
        return JSONResponse({"engine_public": {"key": "00" * 32}, "state": known["state"]})

    async def get_round(self, request: Request) -> JSONResponse:
        self.calls.append("report")
        if self.away:
            return self._problem(503, "away")
        found = self.rounds.get(request.path_params["id"])
        if found is None:
            return self._problem(404, "not-found")
        manifest = found["manifest"]["manifest"]
        return JSONResponse(
            {
                "id": request.path_params["id"],
                "kind": manifest["kind"],
                "state": found["state"],
                "moves": found.get("moves", 0),
                "reason": found.get("reason"),
                "opening": found.get("opening", False),
                "step": found.get("step"),
                "got": found["got"],
                "min_cohort": manifest["min_cohort"],
                "target": manifest["target"],
                "result": found["result"],
                "accepted": found.get("accepted", []),
                "rejections": found.get("rejections", []),
                "faults": found.get("faults", []),
            }
        )

    async def close(self, request: Request) -> JSONResponse:
        self.calls.append("close")
        found = self.rounds[request.path_params["id"]]
        if found["state"] == "collecting" and int(request.query_params["moves"]) == found.get("moves", 0):
            if found["got"] >= found["manifest"]["manifest"]["min_cohort"]:
                self.publish(request.path_params["id"], found["got"])
            else:
                found.update(state="failed", reason="quorum")
        return JSONResponse({"state": found["state"]})

    async def cancel(self, request: Request) -> JSONResponse:
        self.calls.append("cancel")
        if self.away:
            return self._problem(503, "away")
        self.rounds[request.path_params["id"]]["state"] = "cancelled"
        return JSONResponse({"state": "cancelled"})

    def upload(self, round_id: str, site_id: str = "") -> None:
        """One more site's update; the last one publishes."""
        found = self.rounds[round_id]
        found.setdefault("accepted", []).append(site_id)
        found["got"] += 1
        if found["got"] == found["manifest"]["manifest"]["target"]:
            self.publish(round_id, found["got"])

    def publish(self, round_id: str, count: int) -> None:
        found = self.rounds[round_id]
        kind = found["manifest"]["manifest"]["kind"]
        result: dict[str, Any] = {"count": count, "vector_length": 5, "weight": 7.0, "loss": self.loss, "clipped": 0}
        if kind in ("train", "initialise"):
            version = new_id("ver")
            digest = hashlib.sha256(version.encode()).hexdigest()
            result |= {"version_id": version, "digest": digest, "vector_length": 3}
        else:
            sums = [20.0, 10.0, 8.0, 2.0, 9.0, 1.0, *self.scored]
            values = sums if kind == "evaluate" else self.add_up(found["manifest"]["manifest"])
            result |= {"values": values, "metrics_layout": "binary"}
        found.update(state="published", result=result, got=count)

    async def post_model(self, request: Request) -> JSONResponse:
        body = await request.json()
        model = {"id": f"mdl_{secrets.token_hex(13)}", **body}
        self.models[model["id"]] = model
        return JSONResponse(model, 201)

    async def list_models(self, request: Request) -> JSONResponse:
        return JSONResponse({"items": list(self.models.values()), "next": None})

    async def get_model(self, request: Request) -> JSONResponse:
        found = self.models.get(request.path_params["id"])
        return JSONResponse(found) if found else self._problem(404, "not-found")

    async def get_version(self, request: Request) -> JSONResponse:
        found = self.versions.get(request.path_params["id"])
        return JSONResponse(found) if found else self._problem(404, "not-found")

    async def get_sheet(self, request: Request) -> JSONResponse:
        found = self.sheets.get(request.path_params["id"])
        return JSONResponse(found[-1]) if found else self._problem(404, "datasheet-missing")

    async def put_sheet(self, request: Request) -> JSONResponse:
        if self.away:
            return self._problem(503, "away")
        self.sheets.setdefault(request.path_params["id"], []).append(await request.json())
        return JSONResponse({}, 201)

    async def list_stale(self, request: Request) -> JSONResponse:
        told = {name: len(kept[-1]["datasheet"]["audits"]) for name, kept in self.sheets.items()}
        stale = [name for name, one in self.versions.items() if len(one.get("audits") or ()) > told.get(name, 0)]
        return JSONResponse({"items": stale})

    async def post_metrics(self, request: Request) -> JSONResponse:
        if self.away:
            return self._problem(503, "away")
        body = await request.json()
        self.metrics.append((request.path_params["id"], body["metrics"]))
        return JSONResponse({}, 201)
