"""One daemon thread a process that looks after the idle connections of all pools."""

from __future__ import annotations

import logging
import threading

logger = logging.getLogger("djorm.pool")

LONGEST = 5.0  # seconds between two rounds, at most
SHORTEST = 0.05
_lock = threading.Lock()
_thread: threading.Thread | None = None
_wake = threading.Event()


def ensure() -> None:
    """Start the thread if this process has none; after a fork that is so until the first checkout."""
    global _thread
    if _thread is None or not _thread.is_alive():
        with _lock:
            if _thread is None or not _thread.is_alive():
                _thread = threading.Thread(target=_run, name="djorm-pool-upkeep", daemon=True)
                _thread.start()
    else:
        _wake.set()  # a new pool may want shorter rounds


def after_fork_in_child() -> None:
    """The thread exists in the parent only, and so does whoever held the lock."""
    global _lock, _thread, _wake
    _lock = threading.Lock()
    _wake = threading.Event()
    _thread = None
    from . import metrics

    metrics.after_fork_in_child()


def _pause() -> float:
    """Often enough for the shortest of the times that the pools were given."""
    from . import registry

    times = [LONGEST]
    for pool in registry.pools():
        options = pool.options
        times += [t / 4 for t in (options.idle_timeout, options.keepalive, options.leak_after) if t]
        if options.min_idle or options.renew_file:
            times.append(1.0)
    return max(SHORTEST, min(times))


def _run() -> None:
    from . import metrics, registry

    while True:
        wake = _wake
        wake.wait(_pause())
        wake.clear()
        for pool in registry.pools():
            try:
                pool.maintain()
            except Exception:
                logger.exception("upkeep of %s", pool.label)
        try:
            metrics.update()
        except Exception:
            logger.exception("metrics")
