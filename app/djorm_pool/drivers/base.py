"""The interface of a driver, with what is common to all."""

from __future__ import annotations

import re
from typing import Any

from ..lease import DIRTY, PIN, PREVIOUS, TX, WRITE

# Leading blanks, brackets and plain comments (a comment of the kind /*! is executed, so it is none).
_LEAD = re.compile(r"(?:\s+|\(|/\*(?![!M]).*?\*/|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$))*", re.S)
_WORD = re.compile(r"[a-z]+", re.I)
UNKNOWN = DIRTY | TX | PIN


class Driver:
    """Knows one kind of server: what its connections can tell, and what its statements do to a session."""

    vendor = ""
    # a session needs nothing at a borrowing but autocommit, once it was initialised
    plain_sessions = False
    # the backend's cursors are wrappers of the driver's that add nothing but a translation of errors
    thin_cursors = False
    # statements that leave the session as it was, by first word; everything else makes it dirty
    harmless = frozenset[str]()
    writes = frozenset({"insert", "update", "delete", "replace", "merge"})
    # words that make a harmless statement dirty after all
    danger = re.compile(r"(?!)")
    # questions about the statement before
    previous = re.compile(r"(?!)")

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def classify(self, sql: Any) -> int:
        """What this statement does to its session: flags of djorm_pool.lease.

        It errs on the safe side: what it does not know makes the session dirty. It sees the text only: a
        stored
        function or trigger that changes the session is not seen (reset="always" is for that).
        """
        try:
            return self._seen[sql]
        except (KeyError, TypeError):
            pass
        if isinstance(sql, bytes | bytearray):
            sql = bytes(sql).decode("utf-8", "replace")
        if not isinstance(sql, str):
            return UNKNOWN
        flags = self._classify(sql)
        if len(sql) < 4000:
            if len(self._seen) > 4000:
                self._seen = {}
            self._seen[sql] = flags
        return flags

    def _classify(self, sql: str) -> int:
        start = _LEAD.match(sql).end()
        word = _WORD.match(sql, start)
        first = word.group().lower() if word else ""
        body = sql[start:].rstrip().rstrip(";")
        asks = PREVIOUS if self.previous.search(body) else 0
        if first not in self.harmless or ";" in body or self.danger.search(body):
            return UNKNOWN | asks
        return asks | (WRITE if first in self.writes or (first == "with" and self._with_writes(body)) else 0)

    def _with_writes(self, body: str) -> bool:
        return any(re.search(rf"\b{word}\b", body, re.I) for word in self.writes)

    # -- the connection ----------------------------------------------------------------------------

    def fileno(self, raw: Any) -> int | None:
        """The socket's descriptor, or None where there is none."""
        return raw.fileno()

    def stamp(self, raw: Any) -> Any:
        """Something of the connection that `alive` compares later."""
        return None

    def alive(self, entry: Any) -> bool:
        """Without a round trip, where there is no descriptor to poll."""
        return True

    def ping(self, raw: Any) -> None:
        """One round trip; raises where the connection is dead."""
        self.select_one(raw)

    def select_one(self, raw: Any) -> None:
        """A literal SELECT 1 that leaves no transaction behind."""
        cursor = raw.cursor()
        try:
            cursor.execute("SELECT 1")
            cursor.fetchall()
        finally:
            cursor.close()
        if self.in_transaction(raw):
            self.rollback(raw)

    def rollback(self, raw: Any) -> None:
        """Roll back; raises where the connection is dead."""
        raw.rollback()

    def close(self, raw: Any) -> None:
        """Close the connection."""
        raw.close()

    def in_transaction(self, raw: Any) -> bool:
        """Whether a transaction may be open, from what the driver knows without asking."""
        return True

    def reset(self, raw: Any, params: Any) -> bool:
        """Make the session as new. False where that cannot be done: the connection is then discarded."""
        return False

    def detach(self, cursor: Any) -> bool:
        """Cut a cursor that outlives its lease off the connection. False: unread rows are under way."""
        cursor.close()
        return True

    def server_limits(self, raw: Any) -> dict[str, Any]:
        """wait_timeout (seconds) and max_connections, where the server has such things."""
        return {}

    # -- the wrapper -------------------------------------------------------------------------------

    def poolable(self, wrapper: Any) -> bool:
        """Whether connections of this wrapper can be pooled at all."""
        return True

    def key_extras(self, wrapper: Any) -> Any:
        """What else makes two sessions differ, besides the connection parameters."""
        return None

    def adopt(self, wrapper: Any) -> None:
        """What Django's get_new_connection sets on the wrapper besides opening a connection."""

    def target(self, params: Any) -> str:
        """Where this leads, for messages. Never a secret."""
        return str(params.get("host") or params.get("unix_socket") or "localhost")

    # -- errors ------------------------------------------------------------------------------------

    def is_fatal(self, error: BaseException) -> bool:
        """After this error the connection is never lent again."""
        return False

    def is_failover(self, error: BaseException) -> bool:
        """The server is going down or has become read-only: every connection to it is stale."""
        return False

    def is_full(self, error: BaseException) -> bool:
        """The server has no place left, or this account has not: worth waiting for."""
        return False

    def is_away(self, error: BaseException) -> bool:
        """The server cannot be reached, or is going down or coming up."""
        return False

    def is_retryable(self, error: BaseException) -> bool:
        """The whole transaction may succeed if it is run again."""
        return self.is_fatal(error) or self.is_failover(error) or self.is_away(error)

    def error_args(self, message: str) -> tuple[Any, ...]:
        """The arguments of this driver's OperationalError for an error of the pool."""
        return (message,)
