"""The two small records of the pool: a physical connection (Entry) and its being lent (Lease)."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from typing import Any

# What a statement does to its session; drivers classify, leases remember.
DIRTY = 1  # changes the session: reset before the next borrower
TX = 2  # may leave a transaction open although autocommit is on
PIN = 4  # the next statement may rely on it: no early release
PREVIOUS = 8  # asks about the statement before it (LAST_INSERT_ID() and the like)
WRITE = 16  # what it did can be asked about afterwards


class Entry:
    """One physical connection. Times are monotonic seconds."""

    __slots__ = (
        "born",
        "checked",
        "expires",
        "fd",
        "generation",
        "lends",
        "plain",
        "poll",
        "raw",
        "ready",
        "stamp",
        "suspect",
        "used",
    )

    def __init__(self, raw: Any, fd: int | None, generation: int, lifetime: float | None) -> None:
        now = time.monotonic()
        self.raw = raw
        self.fd = fd  # cached: the driver refuses to tell while another thread is in a call
        self.generation = generation
        self.born = self.used = self.checked = now
        self.expires = float("inf") if lifetime is None else now + lifetime
        self.lends = 0
        self.plain = False  # when it came back, nothing had to be cleaned and autocommit was on
        self.ready = False  # session initialisation has been done
        self.suspect = False  # a sibling was found dead: ping before lending
        self.stamp: Any = None  # the driver's own
        self.poll: Any = None
        if fd is not None and hasattr(select, "poll"):  # poll, not select: descriptors above 1023
            poller = select.poll()
            poller.register(fd, select.POLLIN | select.POLLPRI | select.POLLERR | select.POLLHUP)
            self.poll = poller.poll

    def forget_fd(self) -> None:
        """Called before the connection is closed: from then on the number may belong to somebody else."""
        self.fd = self.poll = None


class OwnerRef(weakref.ref):
    """A weak reference to the owning wrapper that leads back to the lease.

    Its callback is deque.append: the only thing that may run on whatever thread the garbage collector chose.
    """

    __slots__ = ("lease",)


class Lease:
    """One borrowing: who, since when, and what was done to the session."""

    __slots__ = (
        "__weakref__",
        "alias",
        "broken",
        "cursors",
        "entry",
        "fairy",
        "flags",
        "foreign",
        "gate",
        "granted",
        "owner",
        "params",
        "parked",
        "path",
        "pool",
        "prefer",
        "raw",
        "reclaimed",
        "record",
        "regular",
        "reported",
        "resumed",
        "since",
        "stack",
        "thread",
        "used",
        "waited",
    )

    def __init__(self, alias: str = "") -> None:
        self.alias = alias
        self.params: Any = None  # the driver's connection parameters
        self.path: str | None = None
        self.owner: OwnerRef | None = None
        self.pool: Any = None
        self.cursors: list[weakref.ref[Any]] = []
        self.regular = False  # its owner has come back for another borrowing
        self.resumed = 0  # borrowings by FairPool.resume() that the pool has not counted yet
        self.since = time.monotonic()
        self.renew()

    def renew(self) -> None:
        """Ready for the next borrowing by the same owner. Only after the one before has ended."""
        self.thread = threading.current_thread()
        self.record: Any = None
        self.fairy: Any = None
        self.entry: Entry | None = None
        self.raw: Any = None
        self.flags = 0
        self.broken = False  # an error said that the connection is gone
        self.used = False  # the borrower has sent a statement
        self.foreign = False  # so have receivers of connection_created, before
        self.prefer: Any = None  # the record that this borrower had last
        self.gate: Any = None
        self.granted = False
        self.reclaimed = False
        self.parked = False  # ended, and the connection is still its own unless somebody has taken it
        self.reported = False
        self.stack: Any = None
        self.waited = 0.0

    def describe(self, now: float) -> str:
        """`thread 'x' since 1.2 s (alias 'default', path '/a')`, for messages."""
        path = f", path {self.path!r}" if self.path else ""
        return f"thread {self.thread.name!r} since {now - self.since:.1f} s (alias {self.alias!r}{path})"


class Watchdog:
    """Cuts a socket when a check on it takes too long: a half-open connection would hang for ever.

    `fired` tells that the connection is gone, even where the check itself came back just in time.
    """

    def __init__(self, fd: int | None, seconds: float) -> None:
        self.fired = False
        self._done = False
        self._lock = threading.Lock()
        self._fd = fd
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def _cut(self) -> None:
        with self._lock:
            if self._done or self._fd is None:
                return
            self.fired = True
            try:
                with socket.socket(fileno=os.dup(self._fd)) as twin:
                    twin.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._done = True
        self._timer.cancel()
