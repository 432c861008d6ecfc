"""Numbers for a monitoring system: /metrics, in Prometheus' text format 0.0.4."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from app.metrics import make_registry


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the address.

    Args:
        routes: Gets it.
        server: The `PromptServer`.
    """
    registry = make_registry(server)

    @routes.get("/metrics")
    async def get_metrics(request: web.Request) -> web.Response:
        # Drivers and the system are asked, who may take their time.
        body = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
