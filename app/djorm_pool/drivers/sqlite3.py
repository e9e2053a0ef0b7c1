"""SQLite files. `:memory:` is left alone: each connection to it would be another database."""

from __future__ import annotations

import os
import re
from typing import Any

from .base import Driver


class SQLiteDriver(Driver):
    """See Driver."""

    vendor = "sqlite"
    harmless = frozenset(
        [
            "select",
            "insert",
            "update",
            "delete",
            "replace",
            "with",
            "values",
            "explain",
            "create",
            "alter",
            "drop",
            "analyze",
            "reindex",
            "vacuum",
            "begin",
            "commit",
            "end",
            "rollback",
            "savepoint",
            "release",
        ]
    )
    danger = re.compile(r"\b(?:temp|temporary|attach|load_extension)\b", re.I)
    previous = re.compile(r"\b(?:last_insert_rowid|changes|total_changes)\s*\(", re.I)

    # pragmas that only ask
    asking = re.compile(
        r"pragma\s+(?:\w+|(?:table_x?info|index_x?info|index_list|foreign_key_(?:list|check)|database_list)\s*\([^)]*\))$",
        re.I,
    )

    def _classify(self, sql: str) -> int:
        return 0 if self.asking.match(sql.strip()) else super()._classify(sql)

    def fileno(self, raw: Any) -> int | None:
        return None

    def stamp(self, raw: Any) -> Any:
        path = raw.execute("PRAGMA database_list").fetchall()[0][2]
        return (path, self._identity(path))

    @staticmethod
    def _identity(path: str) -> tuple[int, int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def alive(self, entry: Any) -> bool:
        # the file may have been deleted or replaced: the old one would go on unseen
        path, identity = entry.stamp
        return self._identity(path) == identity

    def in_transaction(self, raw: Any) -> bool:
        return raw.in_transaction

    def poolable(self, wrapper: Any) -> bool:
        return not wrapper.is_in_memory_db()

    def key_extras(self, wrapper: Any) -> Any:
        return (tuple(wrapper.init_commands), wrapper.transaction_mode)

    def target(self, params: Any) -> str:
        return str(params.get("database", ""))

    def is_fatal(self, error: BaseException) -> bool:
        return "malformed" in str(error) or "not a database" in str(error) or "disk I/O" in str(error)

    def is_retryable(self, error: BaseException) -> bool:
        return "is locked" in str(error)


driver = SQLiteDriver()
