"""What a process knows about its pool, its session and its server."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from django.conf import settings
from django.db import connections

STARTED = time.time()
# Read back on the page and by the tests: what the article sets and a running server can tell.
PARAMETERS = (
    "back_log",
    "binlog_cache_size",
    "binlog_expire_logs_seconds",
    "bulk_insert_buffer_size",
    "expire_logs_days",
    "innodb_buffer_pool_size",
    "innodb_file_per_table",
    "innodb_flush_log_at_trx_commit",
    "innodb_lock_wait_timeout",
    "innodb_log_buffer_size",
    "innodb_log_file_size",
    "innodb_max_dirty_pages_pct",
    "innodb_redo_log_capacity",
    "innodb_thread_concurrency",
    "interactive_timeout",
    "key_buffer_size",
    "long_query_time",
    "lower_case_table_names",
    "max_allowed_packet",
    "max_binlog_cache_size",
    "max_binlog_size",
    "max_connect_errors",
    "max_connections",
    "max_heap_table_size",
    "open_files_limit",
    "query_cache_size",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "table_open_cache",
    "thread_cache_size",
    "thread_stack",
    "tmp_table_size",
    "transaction_isolation",
    "tx_isolation",
    "wait_timeout",
)
COUNTERS = (
    "Aborted_clients",
    "Aborted_connects",
    "Connections",
    "Max_used_connections",
    "Threads_connected",
    "Threads_running",
    "Uptime",
)
SESSION = (
    "innodb_lock_wait_timeout",
    "lock_wait_timeout",
    "transaction_isolation",
    "tx_isolation",
    "wait_timeout",
)


def alias() -> str:
    return getattr(settings, "STATUS_DATABASE", "default")


def release() -> str:
    return os.environ.get("DJANGO_APP_RELEASE", "")


def pools() -> dict[str, Any]:
    """Every pool of this process, as djorm_pool tells it."""
    try:
        import djorm_pool
    except ImportError:
        return {}
    return djorm_pool.status()


def process() -> dict[str, Any]:
    """This process, without asking the database anything."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "unit": os.path.basename(os.environ.get("RUNTIME_DIRECTORY", "")),
        "release": release(),
        "config": os.environ.get("DJANGO_APP_CONFIG", ""),
        "threads": threading.active_count(),
        "uptime": round(time.time() - STARTED, 1),
        "declared": {
            "options": dict(getattr(settings, "DJORM_POOL_OPTIONS", {}) or {}),
            "pessimistic": getattr(settings, "DJORM_POOL_PESSIMISTIC", None),
        },
        "conn_max_age": {name: settings.DATABASES[name].get("CONN_MAX_AGE") for name in settings.DATABASES},
        "pools": pools(),
    }


def ping() -> None:
    """One query through the pool; raises what the database raises."""
    with connections[alias()].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def session() -> dict[str, Any]:
    """What holds in a session as the site gets it from the pool."""
    connection = connections[alias()]
    with connection.cursor() as cursor:
        if connection.vendor != "mysql":
            cursor.execute("SELECT 1")
            return {"vendor": connection.vendor}
        cursor.execute("SHOW SESSION VARIABLES WHERE Variable_name IN %s", [SESSION])
        values = dict(cursor.fetchall())
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        cipher = (cursor.fetchone() or ("", ""))[1]
        cursor.execute("SELECT CONNECTION_ID(), CURRENT_USER()")
        number, account = cursor.fetchone()
    isolation = values.pop("transaction_isolation", None) or values.get("tx_isolation", "")
    values.pop("tx_isolation", None)
    return {
        "vendor": connection.vendor,
        "connection_id": number,
        "account": account,
        "isolation": isolation,
        "ssl_cipher": cipher,
        "variables": {name: int(value) for name, value in values.items()},
    }


def server() -> dict[str, Any]:
    """The server behind the pool: its limit, its connections, its effective parameters."""
    connection = connections[alias()]
    if connection.vendor != "mysql":
        ping()
        return {"vendor": connection.vendor}
    with connection.cursor() as cursor:
        cursor.execute(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN %s", [(*PARAMETERS, "version", "version_comment")]
        )
        variables = dict(cursor.fetchall())
        cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN %s", [COUNTERS])
        counters = {name: int(value) for name, value in cursor.fetchall()}
    version, comment = variables.pop("version", ""), variables.pop("version_comment", "")
    return {
        "vendor": "mariadb" if getattr(connection, "mysql_is_mariadb", False) else "mysql",
        "version": version,
        "version_comment": comment,
        "max_connections": int(variables["max_connections"]),
        "threads_connected": counters.get("Threads_connected"),
        "status": counters,
        "parameters": dict(sorted(variables.items())),
    }


def pending_migrations() -> list[str]:
    """Migrations that the code has and the database has not."""
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[alias()])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
