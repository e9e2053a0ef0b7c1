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
from threading import get_ident
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .errors import SessionStateLost
from .lease import DIRTY, PIN, TX, WRITE, Lease

_here = threading.local()
_stock_close = BaseDatabaseWrapper.close


def request_started(environ: Any = None, scope: Any = None, **kwargs: Any) -> None:
    """Receiver: this thread serves a request now."""
    _here.path = (environ or {}).get("PATH_INFO") or (scope or {}).get("path") or ""


def request_finished(**kwargs: Any) -> None:
    """Receiver: and no more."""
    _here.path = None


def current_path() -> str | None:
    """The path of the request that this thread serves; None where it serves none."""
    return getattr(_here, "path", None)


def early(options: Any) -> bool:
    """Whether a wrapper on this thread gives back as soon as nothing depends on the connection."""
    if options.release == "statement":
        return True
    if getattr(_here, "path", None) is not None:
        return False
    return threading.current_thread() is not threading.main_thread()


def end(self: Any) -> None:
    """close(), without what it checks for others than this thread outside a transaction."""
    if self.in_atomic_block or self._thread_ident != get_ident() or type(self).close is not _stock_close:
        self.close()
    else:
        self.run_on_commit = []
        self._close()


def park(self: Any, lease: Lease) -> bool:
    """end(), where there is nothing to clean and nobody to tell, as after almost every request, and where
    this wrapper borrows again and again: the connection stays with its lease. False: nothing has happened.
    """
    raw, pool = lease.raw, lease.pool
    if (
        self.in_atomic_block
        or self.errors_occurred
        or not self.autocommit
        or self._thread_sharing_count
        or self._thread_ident != get_ident()
        or self.connection is not raw
        or lease.broken
        or type(self).close is not _stock_close
        or type(self)._close is not type(self)._djorm_close
        or not pool.may_park(lease)
    ):
        return False
    self.connection = self._djorm_lease = self._djorm_last = None
    if self.run_on_commit:
        self.run_on_commit = []
    try:
        pool.park(lease)
    except BaseException:
        pool.give_up(lease)  # where it was interrupted half-way
        raise
    return True


def _give_back(self: Any, lease: Lease) -> None:
    """End the lease, unless something still depends on its connection."""
    if self.in_atomic_block or not self.autocommit or self._thread_sharing_count:
        return
    if lease.flags & (DIRTY | PIN | TX):
        return
    if lease.cursors:
        lease.cursors[:] = [ref for ref in lease.cursors if ref() is not None]
        if lease.cursors:
            return
    record = lease.record
    last = record, record.entry.lends + 1  # what it is unless somebody has had it by then
    on_commit = self.run_on_commit
    if not (lease.regular and park(self, lease)):
        end(self)
    self.run_on_commit = on_commit
    self._djorm_last = last if record.dbapi_connection is not None else (None, 0)


def cursor_closed(self: Any, lease: Lease, cursor: Any) -> None:
    """A cursor of this wrapper was closed: does the lease end here?"""
    if self.in_atomic_block or not early(lease.pool.options):
        return
    if self._djorm_lease is not lease or self._djorm_connecting or not self.autocommit:
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
        frame = frame.f_back
    return False


def same_connection(self: Any, lease: Lease) -> None:
    """A statement asks about the one before it which ran on another connection: refuse."""
    last = self._djorm_last
    if lease.used or last is None:  # the statement before it ran in this lease, or there was none
        return
    record, lends = last
    if lease.foreign or lease.record is not record or record.entry.lends != lends:
        raise SessionStateLost(
            "djorm_pool: this statement asks about the one before it (LAST_INSERT_ID(), ROW_COUNT(), "
            "FOUND_ROWS(), SHOW WARNINGS, ...), whose connection has served others since "
            "(release='statement'). Put both into one transaction.atomic() block or one cursor, or use "
            "release='request'."
        )


def graft_set_autocommit(original: Any) -> Any:
    """After atomic() Django sets autocommit on again: a place to give the connection back."""

    def set_autocommit(self: Any, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        original(self, autocommit, *args, **kwargs)
        lease = self._djorm_lease
        if autocommit and lease is not None and not self._djorm_connecting and early(lease.pool.options):
            lease.flags &= ~WRITE
            _give_back(self, lease)

    return set_autocommit


def graft_get_autocommit(original: Any, pool_options: Any) -> Any:
    """Asking for the mode (on_commit() does) need not borrow a connection where it would go back at once."""

    def get_autocommit(self: Any) -> bool:
        if self.connection is None and not self.in_atomic_block:
            options = pool_options(self)
            if options is not None and early(options):
                return self.settings_dict["AUTOCOMMIT"]
        return original(self)

    return get_autocommit
