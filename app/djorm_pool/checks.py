"""Django system checks. `manage.py check`, and with the server's word `manage.py check --database
default`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Any

from django.core.checks import Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from . import conf


def register_all() -> None:
    """Register the checks. Idempotent."""
    register(check_settings)
    register(Tags.database)(check_server)


def _pooled() -> Any:
    """(alias, wrapper, options), for every alias that we pool."""
    from .graft import pool_options

    for alias in connections:
        wrapper = connections[alias]
        if hasattr(type(wrapper), "_djorm_driver"):
            options = pool_options(wrapper)
            if options is not None:
                yield alias, wrapper, options


def check_settings(**kwargs: Any) -> list[Any]:
    """E001 settings, E002 CONN_MAX_AGE, E003 Django's own pool beside ours, W001 more threads than
    connections.
    """
    try:
        conf.build(conf.global_options(), conf.SETTING)
        found = list(_pooled())
    except ImproperlyConfigured as error:
        return [Error(str(error), id="djorm_pool.E001")]
    problems: list[Any] = []
    for alias, wrapper, options in found:
        max_age = wrapper.settings_dict["CONN_MAX_AGE"]
        if max_age != 0:
            problems.append(
                Error(
                    f"DATABASES[{alias!r}]['CONN_MAX_AGE'] is {max_age!r} on a pooled alias: a connection "
                    f"that a "
                    "thread keeps is none that others can have. At run time it counts as 0.",
                    hint="Set CONN_MAX_AGE to 0, or take the alias out of the pool: OPTIONS['pool'] = False.",
                    id="djorm_pool.E002",
                )
            )
        threads = _server_argument("threads")
        if threads and options.limit and options.release == "request" and threads > 4 * options.limit:
            problems.append(
                Warning(
                    f"{threads} threads share {options.limit} connections of {alias!r}, each held until its "
                    "request ends: most threads will wait.",
                    hint="Use fewer threads, a larger pool_size, or release='statement'.",
                    id="djorm_pool.W001",
                )
            )
    for alias in connections:
        wrapper = connections[alias]
        if _native_beside_ours(wrapper):
            problems.append(
                Error(
                    f"DATABASES[{alias!r}]['OPTIONS']['pool'] belongs to Django's own pool here, and "
                    "'djorm_pool' is in INSTALLED_APPS. Only Django's pool is used.",
                    hint="Use ENGINE 'djorm_pool.backends.postgresql' to give these options to djorm_pool, "
                    "or remove OPTIONS['pool'].",
                    id="djorm_pool.E003",
                )
            )
    return problems


def _native_beside_ours(wrapper: Any) -> bool:
    from .graft import _native_pool

    return getattr(wrapper, "djorm_pool_enabled", False) and _native_pool(
        wrapper, wrapper.settings_dict["OPTIONS"].get("pool")
    )


def check_server(databases: Any = None, **kwargs: Any) -> list[Any]:
    """E010: what the workers may open together is more than the server takes."""
    problems: list[Any] = []
    for alias, wrapper, options in _pooled():
        if alias not in (databases or ()):
            continue
        wrapper.ensure_connection()
        server = wrapper.djorm_pool.limits
        wrapper.close()
        most = server.get("max_connections")
        if not most:
            continue
        account = server.get("max_user_connections")
        bound = min(most, account) if account else most
        name = "max_user_connections" if bound == account else "max_connections"
        workers = _server_argument("workers") or 1
        if options.limit is None or workers * options.limit > bound:
            each = "without limit" if options.limit is None else f"up to {options.limit}"
            problems.append(
                Error(
                    f"{workers} worker process(es) open {each} connections each for {alias!r}; "
                    f"the server's {name} is {bound}.",
                    hint="Lower pool_size and max_overflow so that workers x (pool_size + max_overflow) "
                    f"stays below {bound}, or raise the server's {name}.",
                    id="djorm_pool.E010",
                )
            )
    return problems


def _server_argument(name: str) -> int | None:
    """--threads or --workers of gunicorn, from its command line, GUNICORN_CMD_ARGS or WEB_CONCURRENCY."""
    words = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")) + sys.argv[1:]
    match = re.search(rf"(?:^|\s)--{name}[= ](\d+)(?:\s|$)", " ".join(words))
    if match:
        return int(match.group(1))
    if name == "workers" and os.environ.get("WEB_CONCURRENCY", "").isdigit():
        return int(os.environ["WEB_CONCURRENCY"])
    return None
