"""When a connection goes back: at the request's end, or between statements.

release="request" holds it from the first statement until Django closes the wrapper (the request's end).
release="statement" gives it back whenever nothing depends on it: outside a transaction, no cursor open,
nothing
changed in the session, nothing that a raw statement could ask about afterwards.

A thread that serves no request (an executor's, one of your own) would never give it back under "request";
there
"statement" applies, except on the main thread, where a script or a shell may do as it always did.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from .errors import SessionStateLost
from .lease import DIRTY, PIN, TX, WRITE, Lease

_here = threading.local()


def request_started(**kwargs: Any) -> None:
    """Receiver: this thread serves a request now."""
    environ = kwargs.get("environ")
    scope = kwargs.get("scope")
    _here.path = (environ or {}).get("PATH_INFO") or (scope or {}).get("path") or ""


def request_finished(**kwargs: Any) -> None:
    """Receiver: and no more."""
    _here.path = None


def current_path() -> str | None:
    """The path of the request that this thread serves; None where it serves none."""
    return getattr(_here, "path", None)


def between_statements(lease: Lease) -> bool:
    """Whether this lease ends as soon as nothing depends on it."""
    if lease.pool.options.release == "statement":
        return True
    return lease.path is None and lease.thread is not threading.main_thread()


def _give_back(self: Any, lease: Lease) -> None:
    if (
        self._djorm_lease is not lease
        or self._djorm_connecting
        or self.in_atomic_block
        or not self.autocommit
        or lease.cursors
        or lease.flags & (DIRTY | PIN | TX)
        or self._thread_sharing_count
        or not between_statements(lease)
    ):
        if not lease.cursors or any(ref() is not None for ref in lease.cursors):
            return
        lease.cursors.clear()  # never closed, but collected
        _give_back(self, lease)
        return
    entry = lease.entry
    self._djorm_last = (entry, entry.lends + 1)  # type: ignore[union-attr]
    on_commit = self.run_on_commit
    self.close()
    self.run_on_commit = on_commit


def cursor_closed(self: Any, lease: Lease, cursor: Any) -> None:
    """A cursor of this wrapper was closed: does the lease end here?"""
    if self._djorm_lease is not lease or self.in_atomic_block or self._djorm_connecting:
        return
    if not between_statements(lease):
        return
    if lease.flags & WRITE or getattr(cursor, "warning_count", 0):
        # LAST_INSERT_ID(), ROW_COUNT(), SHOW WARNINGS may follow, unless it was Django's ORM: that never asks
        if not _called_by_orm():
            lease.flags |= PIN
        lease.flags &= ~WRITE
    _give_back(self, lease)


def _called_by_orm() -> bool:
    """Whether the statement comes from Django's ORM: the first caller that is no database plumbing."""
    frame = sys._getframe(2)
    for _ in range(12):
        if frame is None:
            return False
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("django.db.models.", "django.contrib.sessions.")):
            return True
        if not name.startswith(("djorm_pool", "django.db.backends.", "django.db.utils", "contextlib")):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def same_connection(self: Any, lease: Lease) -> None:
    """A statement asks about the one before it: refuse where that ran on another connection, or others
    since.
    """
    last = self._djorm_last
    if last is None or lease.asked:
        return
    entry, lends = last
    if lease.entry is not entry or entry.lends != lends:
        raise SessionStateLost(
            "djorm_pool: this statement asks about the one before it (LAST_INSERT_ID(), ROW_COUNT(), "
            "FOUND_ROWS(), "
            "SHOW WARNINGS, ...), whose connection has served others since (release='statement'). Put both "
            "into "
            "one transaction.atomic() block or one cursor, or use release='request'."
        )


def graft_set_autocommit(original: Any) -> Any:
    """After atomic() Django sets autocommit on again: a place to give the connection back."""

    def set_autocommit(self: Any, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        original(self, autocommit, *args, **kwargs)
        lease = self._djorm_lease
        if autocommit and lease is not None and not self._djorm_connecting and between_statements(lease):
            lease.flags &= ~WRITE
            _give_back(self, lease)

    return set_autocommit


def graft_get_autocommit(original: Any) -> Any:
    """Under release="statement", asking for the mode (on_commit() does) need not borrow a connection."""

    def get_autocommit(self: Any) -> bool:
        if self.connection is None and self._djorm_last is not None and not self.in_atomic_block:
            return self.settings_dict["AUTOCOMMIT"]
        return original(self)

    return get_autocommit
