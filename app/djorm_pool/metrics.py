"""Prometheus metrics, with the official client, optional.

`enable()` once, in settings or AppConfig.ready(). Under gunicorn set PROMETHEUS_MULTIPROC_DIR as that client
asks:
every value below is then the sum over the living workers (the longest wait: the maximum).
"""

from __future__ import annotations

import threading
from typing import Any

_lock = threading.Lock()
_families: dict[str, Any] | None = None
_last: dict[tuple[str, str], float] = {}

_GAUGES = {
    "checked_out": "Connections lent to a borrower",
    "idle": "Connections open and idle",
    "waiting": "Borrowers in line",
    "limit": "The most connections that this process opens",
}
_COUNTERS = {
    "checkouts": "Connections lent",
    "created": "Connections opened",
    "closed": "Connections closed",
    "discarded": "Connections dropped as unfit",
    "waits": "Borrowers that had to wait",
    "wait_seconds": "Seconds that borrowers waited",
    "timeouts": "Borrowers that got none in time",
    "refused": "Borrowers refused at once (max_waiting)",
    "resets": "Sessions reset",
    "reclaimed": "Connections taken back from borrowers that had gone",
    "connect_errors": "Attempts to connect that failed",
    "leaks": "Connections held longer than leak_after",
}


def enable(registry: Any = None) -> None:
    """Register the metrics (with prometheus_client.REGISTRY). Raises ImportError where the client is
    missing.
    """
    global _families
    import prometheus_client as client

    with _lock:
        if _families is not None:
            return
        kw: dict[str, Any] = {"registry": registry or client.REGISTRY}
        found: dict[str, Any] = {}
        for name, text in _GAUGES.items():
            found[name] = client.Gauge(
                f"djorm_pool_{name}", text, ["alias"], multiprocess_mode="livesum", **kw
            )
        found["longest_wait"] = client.Gauge(
            "djorm_pool_longest_wait_seconds",
            "Longest wait so far",
            ["alias"],
            multiprocess_mode="livemax",
            **kw,
        )
        for name, text in _COUNTERS.items():
            found[name] = client.Counter(f"djorm_pool_{name}", text, ["alias"], **kw)
        _families = found
    from . import upkeep

    upkeep.ensure()


def update() -> None:
    """Bring this process's values up to date. Upkeep does it every few seconds; a metrics view may do it
    too.
    """
    if _families is None:
        return
    from .inspection import rows

    with _lock:
        for alias, row in rows().items():
            for name in _GAUGES:
                _families[name].labels(alias).set(float("inf") if row[name] is None else row[name])
            _families["longest_wait"].labels(alias).set(row["longest_wait"])
            for name in _COUNTERS:
                now = row[f"{name}_total"]
                _families[name].labels(alias).inc(max(0, now - _last.get((alias, name), 0)))
                _last[alias, name] = now


def after_fork_in_child() -> None:
    """The child's pools begin at zero."""
    global _lock
    _lock = threading.Lock()
    _last.clear()
