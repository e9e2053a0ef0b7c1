"""MySQL and MariaDB through mysqlclient."""

from __future__ import annotations

import re
from typing import Any

from .base import Driver

# After these the connection is gone, or out of step with the server (numbers are the servers' error codes).
_FATAL = {1053, 1080, 1152, 1153, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031}
_FULL = {1040, 1203, 1226}
_AWAY = {1053, 1927, 2002, 2003, 2006, 2013, 2055}  # not 2005: no such host
# The connection went, and the same statements may succeed on another one; not all of _FATAL: what is too long
# for a packet stays so.
_LOST = _AWAY | {1152, 1158, 1159, 1160, 1161, 1184, 3169, 4031}
# Another transaction was in the way (deadlock, lock wait, snapshot), the cluster could not commit, or a disk
# was full.
_AGAIN = {1020, 1021, 1114, 1180, 1205, 1213, 3100, 3101}


def _code(error: BaseException) -> int:
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else -1


def _not_ready(error: BaseException) -> bool:
    """A node that is up and does not serve: read-only after a failover, or outside its cluster's majority."""
    code, text = _code(error), str(error).lower()
    if code == 1290:
        return "read-only" in text or "read_only" in text
    if code == 1180:
        return "replication" in text
    # 4094: the group is choosing another writer, with a time-out that somebody gave it
    return (
        code == 1836 or (code == 1047 and "wsrep" in text) or (code == 4094 and "group_replication" in text)
    )


def _cut_off(error: BaseException) -> bool:
    """TLS that was cut off or not answered, as where a proxy changes servers or a server is frozen. A
    certificate that is refused has the same code, and stays so.
    """
    words = (
        "unexpected eof",
        "lib(0)",
        "reset by peer",
        "broken pipe",
        "temporarily unavailable",
        "timed out",
    )
    return _code(error) == 2026 and any(word in str(error).lower() for word in words)


class MySQLDriver(Driver):
    """See Driver. mysqlclient refuses every call, fileno() too, while another thread is in one."""

    vendor = "mysql"
    plain_sessions = True
    thin_cursors = True
    harmless = frozenset(
        [
            "select",
            "insert",
            "update",
            "delete",
            "replace",
            "with",
            "values",
            "table",
            "show",
            "explain",
            "describe",
            "desc",
            "analyze",
            "create",
            "alter",
            "drop",
            "truncate",
            "rename",
            "optimize",
            "check",
            "checksum",
            "repair",
            "commit",
            "rollback",
            "savepoint",
            "release",
            "grant",
            "revoke",
        ]
    )
    danger = re.compile(
        r"(?<!@)@(?!@)|/\*[!M]|\b(?:temporary|get_lock|sql_calc_found_rows|last_insert_id\s*\(\s*[^\s)]|nextval|setval|chain"
        r"|next\s+value\s+for|(?:create|drop|alter)\s+(?:database|schema))",
        re.I,
    )
    previous = re.compile(
        r"\b(?:last_insert_id\s*\(\s*\)|found_rows\s*\(|row_count\s*\(|lastval\s*\(|previous\s+value\s+for)"
        r"|\bshow\s+(?:count\s*\(\s*\*\s*\)\s*)?(?:warnings|errors)\b|\bget\s+(?:current\s+|stacked\s+)?diagnostics\b"
        r"|@@(?:session\.)?(?:warning_count|error_count|identity|last_insert_id)\b",
        re.I,
    )

    def in_transaction(self, raw: Any) -> bool:
        # with autocommit on, only a raw BEGIN opens one, and that is seen in the statement's text
        return not raw.get_autocommit()

    def ping(self, raw: Any) -> None:
        raw.ping()

    def select_one(self, raw: Any) -> None:
        raw.query("SELECT 1")
        raw.store_result().fetch_row(0)
        if self.in_transaction(raw):
            raw.rollback()

    def reset(self, raw: Any, params: Any) -> bool:
        """COM_CHANGE_USER, then exactly what connecting did after it: charset, collation, sql_mode,
        init_command.

        It also rolls back, releases locks, drops temporary tables and restores the current database.
        """
        user = params.get("user")
        if user is None or params.get("read_default_file") or params.get("read_default_group"):
            return False  # the credentials come from a file that only connecting reads
        database = params.get("database") or params.get("db")
        password = params.get("password") or params.get("passwd") or ""
        if not database:
            return False  # without one, the server would keep the borrower's
        autocommit = raw.get_autocommit()
        raw.change_user(user, password, database)
        if command := params.get("init_command"):
            self._run(raw, command)
        charset = params.get("charset") or raw.character_set_name()
        raw.set_character_set(charset, params.get("collation") or None)
        if sql_mode := params.get("sql_mode"):
            raw.set_sql_mode(sql_mode)
        raw.autocommit(params.get("autocommit") or autocommit)
        return True

    @staticmethod
    def _run(raw: Any, command: str) -> None:
        raw.query(command)
        while True:
            result = raw.store_result()
            if result is not None:
                result.fetch_row(0)
            if raw.next_result() != 0:  # -1: no more
                return

    def detach(self, cursor: Any) -> bool:
        # a late close() would read the next result of a connection that is somebody else's by then
        inner = getattr(cursor, "cursor", cursor)
        unread = getattr(inner, "_result", None) is not None
        connection = getattr(inner, "connection", None)
        inner.connection = None
        if unread or connection is None:
            return not unread
        more = getattr(connection, "more_results", None)
        return not (more is not None and more())

    def server_limits(self, raw: Any) -> dict[str, Any]:
        try:
            raw.query(
                "SELECT @@session.wait_timeout, @@global.max_connections, @@session.max_user_connections"
            )
            row = raw.store_result().fetch_row(0)[0]
            return {
                "wait_timeout": int(row[0]),
                "max_connections": int(row[1]),
                "max_user_connections": int(row[2]),
            }
        except Exception:  # a proxy may not know them, and the pool works without
            return {"known": False}

    def key_extras(self, wrapper: Any) -> Any:
        return wrapper.isolation_level

    def target(self, params: Any) -> str:
        place = params.get("unix_socket") or f"{params.get('host', 'localhost')}:{params.get('port', 3306)}"
        return f"{params.get('user', '')}@{place}/{params.get('database') or params.get('db') or ''}"

    def is_fatal(self, error: BaseException) -> bool:
        import MySQLdb

        if isinstance(error, MySQLdb.InterfaceError):
            return True
        code = _code(error)
        return 2000 <= code < 3000 or code in _FATAL

    def is_failover(self, error: BaseException) -> bool:
        return _code(error) == 1053 or _not_ready(error)

    def is_full(self, error: BaseException) -> bool:
        return _code(error) in _FULL

    def is_away(self, error: BaseException) -> bool:
        return _code(error) in _AWAY or _not_ready(error) or _cut_off(error)

    def is_retryable(self, error: BaseException) -> bool:
        import MySQLdb

        code = _code(error)
        gone = isinstance(error, MySQLdb.InterfaceError)
        return gone or code in _LOST or code in _AGAIN or _not_ready(error) or _cut_off(error)

    def error_args(self, message: str) -> tuple[Any, ...]:
        return (2003, message)  # "cannot connect": code that reads args[0] as a number keeps working


driver = MySQLDriver()
