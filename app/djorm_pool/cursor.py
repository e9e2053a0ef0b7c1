"""The cursor that tells its lease what was done to the session."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from .lease import PREVIOUS
from .release import cursor_closed


class Tracking:
    """What a cursor that stands before the driver's needs to tell its lease."""

    __slots__ = ()
    cursor: Any
    wrapper: Any
    lease: Any
    _ref: Any

    def __init__(self, cursor: Any, wrapper: Any, lease: Any) -> None:
        self.cursor = cursor
        self.wrapper = wrapper
        self.lease = lease
        self._ref = weakref.ref(self)
        if len(lease.cursors) > 32:  # cursors that were never closed, but collected
            lease.cursors[:] = [ref for ref in lease.cursors if ref() is not None]
        lease.cursors.append(self._ref)

    def _note(self, sql: Any) -> None:
        lease = self.lease
        if lease is None or self.wrapper._djorm_quiet:
            return
        flags = self.wrapper._djorm_driver.classify(sql)
        if flags & PREVIOUS:
            self.wrapper._djorm_same_connection(lease)
        lease.flags |= flags
        lease.used = True

    def execute(self, sql: Any, *args: Any) -> Any:
        self._note(sql)
        return super().execute(sql, *args)

    def executemany(self, sql: Any, *args: Any) -> Any:
        self._note(sql)
        return super().executemany(sql, *args)

    def callproc(self, *args: Any, **kwargs: Any) -> Any:
        self._note("CALL")
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
                    cursor_closed(self.wrapper, lease, self.cursor)

    def detach(self) -> bool:
        """The lease ends while this cursor is open. False: unread rows are under way."""
        lease, self.lease = self.lease, None
        return lease is None or lease.pool.driver.detach(self.cursor)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Around:
    """Stands around any cursor and passes everything on."""

    __slots__ = ()
    cursor: Any

    def execute(self, *args: Any) -> Any:
        return self.cursor.execute(*args)

    def executemany(self, *args: Any) -> Any:
        return self.cursor.executemany(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.cursor)


class TrackedCursor(Tracking, _Around):
    """Stands between Django's cursor wrapper and the backend's cursor, for every backend and its
    subclasses.
    """

    __slots__ = ("__weakref__", "_ref", "cursor", "lease", "wrapper")


def tracked(stock: type) -> type:
    """The backend's own thin cursor wrapper, which tracks too: one layer less around each statement."""
    return type("TrackedCursor", (Tracking, stock), {"__doc__": tracked.__doc__})


def track(cursor: Any, wrapper: Any, lease: Any) -> Any:
    """This backend's cursor, tracked."""
    stock, kind = wrapper._djorm_cursors
    if type(cursor) is stock:
        return kind(cursor.cursor, wrapper, lease)
    return TrackedCursor(cursor, wrapper, lease)
