"""Workers are started and stopped by the gauge of updates that wait, as KEDA does by the chart's ScaledObject."""

# ruff: noqa: F811  (fixtures are imported by their names)

import asyncio
import math
import secrets
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest

from tests.deploy.charts import of_kind, render
from tests.deploy.promql import Evaluation, labels
from tests.services.aggregator.conftest import make_manifest, make_update, zeros
from tests.services.aggregator.processes import (  # noqa: F401  (fixtures)
    Enrolled,
    Outside,
    Start,
    enrolled,
    free_port,
    process,
    registry,
)
from undersong.shared.wire.manifest import RoundManifest

pytestmark = [pytest.mark.process, pytest.mark.slow]
LENGTH, SITES, EACH = 2_000, 13, 4


def scaled_object() -> dict[str, Any]:
    """The chart's rule for the aggregator's workers: one for every four updates that wait."""
    keda = {"keda": True, "updatesPerWorker": EACH, "prometheusUrl": "http://prometheus:9090"}
    manifests = render("undersong-platform", {"autoscaling": keda, "aggregator": {"worker": {"replicas": 1}}})
    (found,) = [each for each in of_kind(manifests, "ScaledObject") if each["metadata"]["name"] == "aggregator-worker"]
    spec: dict[str, Any] = found["spec"]
    return spec


class Autoscaler:
    """Starts and stops worker processes by what the running ones' /metrics say."""

    def __init__(self, process: Start, environment: dict[str, str]) -> None:
        self.process, self.environment, self.spec = process, environment, scaled_object()
        self.trigger = self.spec["triggers"][0]["metadata"]
        self.http = httpx.AsyncClient(timeout=20)
        self.workers: list[tuple[str, ExitStack]] = []

    async def value(self) -> float:
        """The trigger's query over the metrics of all workers; 0 where there are none yet."""
        series = {}
        for url, _ in self.workers:
            lines = (await self.http.get(url)).text.splitlines()
            for name, _, value in (line.partition(" ") for line in lines if line.startswith("fl_updates_")):
                series[name, labels(instance=url, service="aggregator")] = [float(value)]
        found = Evaluation(self.trigger["query"], series, 0).run()
        assert isinstance(found, dict)
        return max(found.values(), default=0.0)

    async def scale(self) -> int:
        """What the trigger wants now, within the rule's bounds."""
        wanted = math.ceil(await self.value() / float(self.trigger["threshold"]))
        wanted = min(max(wanted, self.spec["minReplicaCount"]), self.spec["maxReplicaCount"])
        while len(self.workers) < wanted:
            port = str(free_port())
            stack = ExitStack()
            stack.enter_context(self.process("worker", {**self.environment, "AGGREGATOR_WORKER_METRICS_PORT": port}))
            self.workers.append((f"http://127.0.0.1:{port}/metrics", stack))
        for url, _ in self.workers:
            await self.listens(url)
        while len(self.workers) > wanted:
            self.workers.pop()[1].close()
        return wanted

    async def listens(self, url: str) -> None:
        while True:
            try:
                await self.http.get(url)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return

    async def until(self, value: float) -> None:
        while await self.value() != value:  # noqa: ASYNC110  (the gauge has no event)
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        await self.http.aclose()
        for _, stack in self.workers:
            stack.close()


async def send(outside: Outside, manifest: RoundManifest, public: dict[str, Any], at: int) -> None:
    body = make_update(manifest, public, manifest.cohort[at], np.ones(LENGTH, np.float32), key=secrets.token_bytes(32))
    await outside.send(manifest.round_id, manifest.cohort[at], body)


@pytest.mark.timeout(300)
async def test_the_gauge_starts_and_stops_workers(sqlite_url: str, enrolled: Enrolled, process: Start) -> None:
    """While the registry cannot give the model, twelve updates wait and the gauge says so; then three workers share
    them, the gauge falls to nothing while the round still collects, and one worker is left to end it.
    """
    fake, environment, outside = enrolled(sqlite_url)
    environment |= {"AGGREGATOR_SHARE_UPDATES": str(EACH), "AGGREGATOR_SHARE_BYTES": "0"}
    scaler = Autoscaler(process, environment)
    with process("api", environment):
        try:
            await outside.ready()
            assert await scaler.scale() == 1, "never fewer than one, without which no process tells the gauge"
            model = fake.seed(zeros(LENGTH))
            fake.damaged.add(model.digest)
            manifest = make_manifest(sites=SITES, model=model)
            public = await outside.open(manifest)
            await asyncio.gather(*(send(outside, manifest, public, at) for at in range(SITES - 1)))
            await scaler.until(SITES - 1)
            assert await scaler.scale() == 3
            fake.damaged.clear()
            await scaler.until(0)
            shown = (await outside.ask(outside.coordinator, "GET", f"/v1/rounds/{manifest.round_id}")).json()
            assert shown["state"] == "collecting"
            assert await scaler.scale() == 1
            await send(outside, manifest, public, SITES - 1)
            found = await outside.ended(manifest.round_id)
            assert (found["state"], found["result"]["count"]) == ("published", SITES)
            await scaler.until(0)
        finally:
            await scaler.stop()
