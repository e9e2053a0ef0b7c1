"""status(): the pools of this process, by alias."""

from __future__ import annotations

import os
from typing import Any

from django.db import connections

from . import registry
from .graft import pool_options
from .pool import COUNTERS


def pooled_aliases() -> dict[str, Any]:
    """Alias to conf.Options, for every alias of DATABASES that is pooled. Opens no connection."""
    found = {}
    for alias in connections:
        wrapper = connections[alias]
        if hasattr(type(wrapper), "_djorm_driver"):
            options = pool_options(wrapper)
            if options is not None:
                found[alias] = options
    return found


def status() -> dict[str, dict[str, Any]]:
    """See djorm_pool.status()."""
    return {alias: _row(options, registry.pools(alias)) for alias, options in pooled_aliases().items()}


def rows() -> dict[str, dict[str, Any]]:
    """As status(), of the aliases that have borrowed in this process; makes no wrapper on this thread."""
    found: dict[str, list[Any]] = {}
    for pool in registry.pools():
        for alias in sorted(pool.aliases)[:1]:  # a shared pool counts once
            found.setdefault(alias, []).append(pool)
    return {alias: _row(pools[-1].options, pools) for alias, pools in found.items()}


def _row(options: Any, pools: list[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "size": options.pool_size,
        "limit": options.limit,
        "checked_out": sum(p.checkedout() for p in pools),
        "idle": sum(p.checkedin() for p in pools),
        "waiting": sum(p.waiting() for p in pools),
        "peak": sum(p.peak for p in pools),
        "longest_wait": max((p.longest_wait for p in pools), default=0.0),
        "wait_seconds_total": sum(p.wait_seconds for p in pools),
    }
    for name in COUNTERS:
        row[f"{name}_total"] = sum(p.checkouts() if name == "checkouts" else p.counters[name] for p in pools)
    server = next((p.limits for p in pools if p.limits.get("max_connections")), {})
    row["server"] = {k: v for k, v in server.items() if k != "known"}
    row["options"] = options.as_dict()
    row["pessimistic"] = options.pessimistic
    row["renewed"] = max((p.renewed for p in pools if p.renewed is not None), default=None)
    row["pid"] = os.getpid()
    return row
