"""What the environment says, as Django settings.

One reader for two users: the reference site's own settings, and the layer that a deployment puts over
anybody's project (there this file is copied as ``djorm_site_environment``). No Django import.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off", ""}
REPLICA = "replica"
READ_ONLY = "transaction_read_only = 1"
# The session variables that bound how long a statement may wait for a lock: rows, then table definitions.
LOCK_WAITS = ("innodb_lock_wait_timeout", "lock_wait_timeout")


class EnvironmentProblem(ValueError):
    """A variable of the environment holds something that cannot be used."""


def flag(name: str, default: bool = False, env: Mapping[str, str] = os.environ) -> bool:
    value = env.get(name)
    if value is None:
        return default
    if value.strip().lower() in TRUE:
        return True
    if value.strip().lower() in FALSE:
        return False
    raise EnvironmentProblem(f"{name}={value!r}: neither true nor false; set it to true or false")


def number(name: str, default: int | None = None, env: Mapping[str, str] = os.environ) -> int | None:
    value = env.get(name, "").strip()
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        raise EnvironmentProblem(f"{name}={value!r}: not a whole number") from None


def words(name: str, default: str = "", env: Mapping[str, str] = os.environ) -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in env.get(name, default).split(",") if word.strip()]


def init_command(theirs: str = "", env: Mapping[str, str] = os.environ, more: Iterable[str] = ()) -> str:
    """What every new session is told: the project's own command, then our bounds, as one statement."""
    assignments = list(more)
    wait = number("DATABASE_LOCK_WAIT_TIMEOUT", None, env)
    if wait is not None:
        if wait < 1:
            raise EnvironmentProblem(f"DATABASE_LOCK_WAIT_TIMEOUT={wait}: must be at least 1 second")
        assignments += [f"{name} = {wait}" for name in LOCK_WAITS]
    statement = number("DATABASE_STATEMENT_TIMEOUT", 0, env)
    if statement < 0:
        raise EnvironmentProblem(f"DATABASE_STATEMENT_TIMEOUT={statement}: must be 0 (no limit) or more")
    if not assignments and not statement:
        return theirs
    ours = ", ".join(assignments or ["@djorm = NULL"])
    if statement:
        # Each server reads its own comment and skips the other's: seconds there, milliseconds here.
        limits = f"/*M! max_statement_time = {statement}, */ /*!80000 max_execution_time = {statement}000, */"
        ours = f"{limits} {ours}"
    if not theirs:
        return f"SET SESSION {ours}"
    if theirs.upper().startswith("SET ") and " TRANSACTION " not in theirs.upper():
        # One statement only: the client library runs init_command as a single query.
        return f"{theirs}, {ours}"
    return theirs


def database(env: Mapping[str, str] = os.environ, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One entry of DATABASES. What the project already says in `over` stays unless we must decide it."""
    result: dict[str, Any] = dict(over or {})
    engine = result.get("ENGINE", "")
    # A project may use a class derived from Django's (GIS, metrics): it stays, the pool grafts onto it.
    if "mysql" not in engine:
        engine = "django.db.backends.mysql"
    socket = env.get("DATABASE_SOCKET", "")
    result.update(
        ENGINE=env.get("DATABASE_ENGINE") or engine,
        NAME=env.get("DATABASE_NAME", ""),
        USER=env.get("DATABASE_USER", ""),
        PASSWORD=env.get("DATABASE_PASSWORD", ""),
        # Django takes a HOST that begins with a slash for a unix socket.
        HOST=socket or env.get("DATABASE_HOST", ""),
        PORT="" if socket else env.get("DATABASE_PORT", ""),
        # The pool keeps connections; a connection kept by a thread as well would be one the pool lacks.
        CONN_MAX_AGE=0,
        CONN_HEALTH_CHECKS=False,
    )
    if "mysql" not in result["ENGINE"]:
        return result
    options = dict(result.get("OPTIONS") or {})
    options.setdefault("charset", "utf8mb4")
    # A proxy on this host may lead to a node that vanished; the next attempt leads to another one.
    patience = 3 if env.get("DATABASE_HOST") == "127.0.0.1" else 5
    options.setdefault("connect_timeout", number("DATABASE_CONNECT_TIMEOUT", patience, env))
    if env.get("DATABASE_ISOLATION"):
        options["isolation_level"] = env["DATABASE_ISOLATION"].lower().replace("-", " ")
    else:
        options.setdefault("isolation_level", "read committed")
    ca = env.get("DATABASE_CA", "")
    if ca and not socket:
        # Certificate and name are checked; a plain REQUIRED would accept anybody's certificate.
        options["ssl"] = {**(options.get("ssl") or {}), "ca": ca}
        options["ssl_mode"] = "VERIFY_IDENTITY"
    command = init_command((options.get("init_command") or "").strip().rstrip(";"), env)
    if command:
        options["init_command"] = command
    result["OPTIONS"] = options
    return result


def databases(env: Mapping[str, str] = os.environ, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """DATABASES as a whole: ours are `default` and, where other nodes are read, `replica`; other aliases only
    lose their per-thread connections.
    """
    result = {
        alias: {**entry, "CONN_MAX_AGE": 0} for alias, entry in (over or {}).items() if alias != "default"
    }
    result["default"] = database(env, (over or {}).get("default"))
    if reads_replicas(env):
        result[REPLICA] = replica(env, (over or {}).get(REPLICA) or (over or {}).get("default"))
    return result


def reads_replicas(env: Mapping[str, str] = os.environ) -> bool:
    return number("DATABASE_REPLICA_PORT", None, env) is not None


def replica(env: Mapping[str, str] = os.environ, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`default` by the proxy's other door, behind which are the nodes that may be read. The server refuses to
    write in such a session, so that a mistake is an error at once, on each engine, and not a conflict later.
    """
    result = database({**env, "DATABASE_PORT": env["DATABASE_REPLICA_PORT"]}, over)
    options = result["OPTIONS"]
    theirs = ((over or {}).get("OPTIONS") or {}).get("init_command") or ""
    command = init_command(theirs.strip().rstrip(";"), env, [READ_ONLY])
    if READ_ONLY not in command:
        raise EnvironmentProblem(
            f"OPTIONS['init_command'] is {theirs!r}: {READ_ONLY} cannot be added to it, for reads from other "
            "nodes; begin it with SET, without TRANSACTION"
        )
    options["init_command"] = command
    pool = options.get("pool")
    if pool is not False and env.get("POOL_REPLICA_RENEW_FILE"):
        own = pool if isinstance(pool, Mapping) else {}
        options["pool"] = {**own, "renew_file": env["POOL_REPLICA_RENEW_FILE"]}
    result["TEST"] = {**(result.get("TEST") or {}), "MIRROR": "default"}
    return result


def routers(theirs: Any = (), env: Mapping[str, str] = os.environ) -> list[Any]:
    """DATABASE_ROUTERS: the project's, and where other nodes are read the one that keeps writes from them."""
    ours = ["djorm_pool.routers.ReplicaRouter"] if reads_replicas(env) else []
    return [*theirs, *(name for name in ours if name not in theirs)]


def pool_options(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """DJORM_POOL_OPTIONS; the article's values where the environment is silent."""
    patience = number("POOL_TIMEOUT", 10, env)
    options = {
        "pool_size": number("POOL_SIZE", 20, env),
        "max_overflow": number("POOL_MAX_OVERFLOW", 0, env),
        "recycle": number("POOL_RECYCLE", 3600, env),
        "timeout": patience,
        # One patience, whether the pool is full or the server away: a crash and its recovery take a while.
        "connect_retry": patience,
    }
    if env.get("POOL_RENEW_FILE"):
        options["renew_file"] = env["POOL_RENEW_FILE"]
    return options


def pool_pessimistic(env: Mapping[str, str] = os.environ) -> bool:
    return flag("POOL_PESSIMISTIC", True, env)
