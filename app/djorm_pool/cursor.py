"""The cursor that tells its lease what was done to the session."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from .lease import DIRTY, PIN, PREVIOUS, TX


class TrackedCursor:
    """Stands between Django's cursor wrapper and the backend's cursor, for every backend and its
    subclasses.
    """

    __slots__ = ("__weakref__", "_classify", "_ref", "cursor", "lease", "wrapper")

    def __init__(self, cursor: Any, wrapper: Any, lease: Any) -> None:
        self.cursor = cursor
        self.wrapper = wrapper
        self.lease = lease
        self._classify = lease.pool.driver.classify
        self._ref = weakref.ref(self)
        if len(lease.cursors) > 32:  # cursors that were never closed, but collected
            lease.cursors[:] = [ref for ref in lease.cursors if ref() is not None]
        lease.cursors.append(self._ref)

    def _note(self, flags: int) -> None:
        lease = self.lease
        if lease is None or self.wrapper._djorm_quiet:
            return
        if flags & PREVIOUS:
            self.wrapper._djorm_same_connection(lease)
        lease.flags |= flags
        lease.used = True

    def execute(self, sql: Any, *args: Any) -> Any:
        self._note(self._classify(sql))
        return self.cursor.execute(sql, *args)

    def executemany(self, sql: Any, *args: Any) -> Any:
        self._note(self._classify(sql))
        return self.cursor.executemany(sql, *args)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        self._note(DIRTY | TX | PIN)
        return self.cursor.callproc(*args, **kwargs)

    def close(self) -> None:
        lease, self.lease = self.lease, None
        try:
            self.cursor.close()
        finally:
            if lease is not None:
                try:
                    lease.cursors.remove(self._ref)
                except ValueError:
                    pass
                else:
                    self.wrapper._djorm_cursor_closed(lease, self.cursor)

    def detach(self) -> bool:
        """The lease ends while this cursor is open. False: unread rows are under way."""
        lease, self.lease = self.lease, None
        return lease is None or lease.pool.driver.detach(self.cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.cursor)

    def __enter__(self) -> TrackedCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
