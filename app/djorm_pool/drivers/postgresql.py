"""PostgreSQL through psycopg 3."""

from __future__ import annotations

import re
from typing import Any

from .base import Driver


class PostgreSQLDriver(Driver):
    """See Driver. The protocol tells the transaction's state, so no statement needs to be guessed at for
    that.
    """

    vendor = "postgresql"
    harmless = frozenset(
        [
            "select",
            "insert",
            "update",
            "delete",
            "merge",
            "with",
            "values",
            "table",
            "show",
            "explain",
            "analyze",
            "vacuum",
            "create",
            "alter",
            "drop",
            "truncate",
            "comment",
            "grant",
            "revoke",
            "begin",
            "start",
            "commit",
            "rollback",
            "end",
            "abort",
            "savepoint",
            "release",
            "copy",
            "fetch",
            "reindex",
            "cluster",
            "refresh",
        ]
    )
    danger = re.compile(
        r"\b(?:temp|temporary|set_config|pg_(?:try_)?advisory_(?:xact_)?lock\w*|nextval|setval|listen|alter\s+role"
        r"|pg_advisory_unlock\w*|prepare|dblink\w*|hold)\b",
        re.I,
    )
    previous = re.compile(r"\b(?:lastval|currval)\s*\(", re.I)

    def fileno(self, raw: Any) -> int | None:
        return raw.fileno()

    def _status(self, raw: Any) -> int:
        return int(raw.pgconn.transaction_status)

    def in_transaction(self, raw: Any) -> bool:
        return self._status(raw) != 0  # IDLE

    def ping(self, raw: Any) -> None:
        self.select_one(raw)

    def select_one(self, raw: Any) -> None:
        raw.execute("SELECT 1")
        if self.in_transaction(raw):
            raw.rollback()

    def reset(self, raw: Any, params: Any) -> bool:
        if self.in_transaction(raw):
            raw.rollback()
        autocommit = raw.autocommit
        if not autocommit:
            raw.autocommit = True
        raw.execute("DISCARD ALL")
        if not autocommit:
            raw.autocommit = False
        return True

    def detach(self, cursor: Any) -> bool:
        inner = getattr(cursor, "cursor", cursor)
        status = self._status(inner.connection)
        if status == 1:  # ACTIVE: rows are under way
            return False
        inner.close()
        return True

    def server_limits(self, raw: Any) -> dict[str, Any]:
        try:
            was = raw.autocommit
            row = raw.execute("SELECT current_setting('max_connections')").fetchone()
            if not was:
                raw.rollback()
            return {"max_connections": int(row[0])}
        except Exception:
            return {"known": False}  # only a check's advice hangs on it; a proxy may not answer

    def poolable(self, wrapper: Any) -> bool:
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        return is_psycopg3

    def key_extras(self, wrapper: Any) -> Any:
        options = wrapper.settings_dict["OPTIONS"]
        return (wrapper.timezone_name, options.get("assume_role"), str(options.get("isolation_level")))

    def adopt(self, wrapper: Any) -> None:
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        level = wrapper.settings_dict["OPTIONS"].get("isolation_level", IsolationLevel.READ_COMMITTED)
        wrapper.isolation_level = IsolationLevel(level)

    def target(self, params: Any) -> str:
        place = f"{params.get('host', 'local')}:{params.get('port', 5432)}"
        return f"{params.get('user', '')}@{place}/{params.get('dbname', '')}"

    def is_fatal(self, error: BaseException) -> bool:
        state = getattr(error, "sqlstate", None)
        import psycopg

        if isinstance(error, psycopg.InterfaceError):
            return True
        if state is None:
            return isinstance(error, psycopg.OperationalError)
        return state[:2] == "08" or state in {"57P01", "57P02", "57P03", "57P05"}

    def is_failover(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == "25006" and "terminating connection" not in str(error)

    def is_full(self, error: BaseException) -> bool:
        return "too many" in str(error) or "remaining connection slots" in str(error)

    def is_away(self, error: BaseException) -> bool:
        import psycopg

        text = str(error)
        return isinstance(error, psycopg.OperationalError) and any(
            part in text
            for part in ("refused", "starting up", "shutting down", "closed the connection", "No such file")
        )

    def is_retryable(self, error: BaseException) -> bool:
        # a serialization failure, a deadlock
        return super().is_retryable(error) or getattr(error, "sqlstate", None) in {"40001", "40P01"}


driver = PostgreSQLDriver()
