"""A connection pool for Django on MySQL, MariaDB, PostgreSQL and SQLite.

Switch it on in one of two ways (both together are fine):

* ``INSTALLED_APPS = ["djorm_pool", ...]``: every alias that Django's own backends serve;
* ``ENGINE`` ``"djorm_pool.backends.mysql"`` (or ``.postgresql``, ``.sqlite3``) in ``DATABASES``: that alias.

Settings: ``DJORM_POOL_OPTIONS``, ``DJORM_POOL_PESSIMISTIC`` and, per alias, ``OPTIONS["pool"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__version__ = "1.0.0"
__all__ = [
    "close_pools",
    "patch_all",
    "patch_mysql",
    "patch_postgresql",
    "patch_sqlite3",
    "retry_atomic",
    "retry_read",
    "status",
]


def status() -> dict[str, dict[str, Any]]:
    """What the pools of this process are doing, by alias.

    Each alias has size (pool_size), limit (most connections; None: none), checked_out, idle, waiting
    (counts),
    waits_total, timeouts_total and other counters since the process began, longest_wait (seconds), options,
    pessimistic, pid. An alias that is not pooled is left out; one that has not connected yet shows zeros.
    """
    from .inspection import status as read

    return read()


def close_pools(alias: str | None = None) -> None:
    """Close the idle connections (of one alias); lent ones are closed when they come back."""
    from .registry import close_pools as close

    close(alias)


def retry_atomic(
    function: Callable[..., Any] | None = None, *, using: str | None = None, within: float = 20.0
) -> Any:
    """A decorator: run the function in transaction.atomic(), and again where the connection was lost.

    Only for a function that may run twice: its rows have a unique key that is the same each time, because a
    COMMIT whose acknowledgement was lost may have been carried out. No attempt begins later than `within`
    seconds after the call. It is refused inside another atomic block.
    """
    from .retry import atomic

    if function is not None:
        return atomic(function, using, within)
    return lambda function: atomic(function, using, within)


def retry_read(
    function: Callable[..., Any] | None = None, *, using: str | None = None, within: float = 20.0
) -> Any:
    """A decorator: run the function, and again where the connection was lost; it begins no transaction.

    Only for a function that reads the alias `using` and changes nothing; a QuerySet must be evaluated in it.
    No attempt begins later than `within` seconds after the call. Where the caller has begun a transaction or
    changed the session it runs once.
    """
    from .retry import read

    if function is not None:
        return read(function, using, within)
    return lambda function: read(function, using, within)


def _patch(vendor: str) -> None:
    from .graft import graft_backend

    graft_backend(vendor).djorm_pool_enabled = True


def patch_mysql() -> None:
    """Pool every alias on Django's MySQL backend. INSTALLED_APPS does this for you."""
    _patch("mysql")


def patch_postgresql() -> None:
    """Pool every alias on Django's PostgreSQL backend. INSTALLED_APPS does this for you."""
    _patch("postgresql")


def patch_sqlite3() -> None:
    """Pool every alias on Django's SQLite backend. INSTALLED_APPS does this for you."""
    _patch("sqlite")


def patch_all() -> None:
    """Pool every backend whose driver is installed."""
    from django.core.exceptions import ImproperlyConfigured

    for vendor in ("mysql", "postgresql", "sqlite"):
        try:
            _patch(vendor)
        except ImproperlyConfigured:
            continue
