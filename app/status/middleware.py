"""/healthz, /readyz, /pool/ and /pool.json.

First in MIDDLEWARE: a health check must not depend on host names, redirects to HTTPS or sessions, and a
project whose URLs we do not know gets these four without a change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, HttpResponseNotAllowed, JsonResponse
from django.template import Context, Engine
from django.utils.functional import cached_property

from . import access, control, facts

log = logging.getLogger(__name__)


def describe(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"


def healthz(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers. The database is none of its business."""
    return JsonResponse({"alive": True, "pid": os.getpid()})


def readyz(request: HttpRequest) -> HttpResponse:
    """Ready: a query went through the pool."""
    try:
        facts.ping()
    except Exception as problem:
        log.error("not ready: %s", describe(problem))
        # To strangers only that it is so; the reason names accounts and addresses.
        return JsonResponse({"ready": False, "release": facts.release()}, status=503)
    return JsonResponse({"ready": True, "release": facts.release(), "pid": os.getpid()})


def overview(deep: bool = False) -> dict:
    """Everything, for every worker process of this host."""
    result = {"release": facts.release(), "answered_by": os.getpid()}
    result["workers"] = control.workers("ready" if deep else "status")
    try:
        result["server"] = facts.server()
    except (DatabaseError, KeyError) as problem:
        result["server"] = {"error": describe(problem)}
    return result


def totals(data: dict) -> dict:
    """The sums a person looks for first."""
    pools = [pool for worker in data["workers"] for pool in worker.get("pools", {}).values()]
    bound = 0
    for pool in pools:
        options = pool.get("options", {})
        bound += options.get("pool_size", pool.get("size", 0)) + max(options.get("max_overflow", 0), 0)
    return {
        "bound": bound,
        **{
            key: sum(pool.get(key) or 0 for pool in pools)
            for key in ("checked_out", "idle", "waiting", "waits_total", "timeouts_total")
        },
    }


class StatusMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        prefix = "/" + getattr(settings, "STATUS_PREFIX", os.environ.get("STATUS_PREFIX", "")).strip("/")
        prefix = prefix.rstrip("/")
        self.routes = {
            f"{prefix}/healthz": healthz,
            f"{prefix}/readyz": readyz,
            f"{prefix}/pool/": self.pool_page,
            f"{prefix}/pool.json": self.pool_json,
        }
        control.start()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        view = self.routes.get(request.path_info)
        if view is None:
            return self.get_response(request)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        response = view(request)
        response["Cache-Control"] = "no-store"
        response["X-Content-Type-Options"] = "nosniff"
        return response

    def pool_json(self, request: HttpRequest) -> HttpResponse:
        if not access.allowed(request):
            return JsonResponse({"error": "only for listed networks and staff"}, status=403)
        data = overview(deep="sessions" in request.GET)
        return JsonResponse({**data, "totals": totals(data)}, json_dumps_params={"indent": 1, "default": str})

    def pool_page(self, request: HttpRequest) -> HttpResponse:
        if not access.allowed(request):
            return HttpResponseForbidden("Only for listed networks and staff.\n", content_type="text/plain")
        data = overview()
        sums = totals(data)
        server = data["server"]
        limit = server.get("max_connections")
        page = self.engine.get_template("status/pool.html").render(
            Context(
                {
                    **data,
                    "totals": sums,
                    "share": round(100 * server["threads_connected"] / limit, 1) if limit else None,
                    "bound_share": round(100 * sums["bound"] / limit, 1) if limit else None,
                }
            )
        )
        return HttpResponse(page)

    @cached_property
    def engine(self) -> Engine:
        """Our own: a project may have no template engine, or another one."""
        return Engine(dirs=[Path(__file__).with_name("templates")], autoescape=True)
