"""The pool: SQLAlchemy's QueuePool with a first-come-first-served hand-off.

What SQLAlchemy's pool keeps: records, events, status(), its log. What is ours: who gets a connection next
(strict order, a deadline, direct hand-off), whether one is fit to be lent, and what happens when it comes
back.

How many connections exist is never counted but derived: leases (lent, or being opened) plus idle. So a thread
that is interrupted anywhere can lose a connection at worst, never a place in the pool.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from sqlalchemy.pool import QueuePool
from sqlalchemy.pool.base import _ConnDialect

from .conf import Options
from .errors import PoolFull, PoolTimeout
from .lease import DIRTY, TX, Entry, Lease, OwnerRef, Watchdog

logger = logging.getLogger("djorm.pool")

REAP_EVERY = 0.5  # seconds between a waiter's looks for connections whose thread has died
BACKOFF = (0.02, 0.5)  # first and longest pause before a full or absent server is asked again
COUNTERS = (
    "checkouts",
    "created",
    "closed",
    "discarded",
    "waits",
    "timeouts",
    "refused",
    "rollbacks",
    "resets",
    "pings",
    "reclaimed",
    "connect_errors",
    "leaks",
)


class _Dialect(_ConnDialect):
    """How SQLAlchemy closes a connection of ours: quietly, whatever state it is in."""

    def __init__(self, pool: FairPool) -> None:
        self._pool = pool

    def do_close(self, dbapi_connection: Any) -> None:
        self._pool._close_raw(dbapi_connection)

    do_terminate = do_close


class FairPool(QueuePool):
    """Connections of one resolved set of parameters, in one process.

    `driver` is a module-like object of djorm_pool.drivers, `options` a conf.Options, `label` what messages
    call
    the pool (never with a secret).
    """

    def __init__(self, driver: Any, options: Options, label: str = "", **kw: Any) -> None:
        self.driver = driver
        self.options = options
        self.label = label
        self.aliases: set[str] = set()
        self.limits: dict[str, Any] = {}  # what the server told: wait_timeout, max_connections
        self.server_data: Any = None  # Django's mysql_server_data, asked once a pool
        self.recipe: Any = None  # how upkeep opens a connection: the latest borrower's class and settings
        self._local = threading.local()
        self._limit = float("inf") if options.limit is None else options.limit
        self._keep = float("inf") if options.pool_size == 0 else options.pool_size
        self._auto = options.pessimistic == "auto"
        self._unpinged = options.ping_after_idle or float("inf")
        self._renews = bool(options.renew_file)
        self._stacks = options.leak_stack
        self._plain = options.reset != "always" and not options.echo
        self._parks = self._plain and self._auto and not self._stacks
        self._generation = 0
        self._renewal: tuple[int, int] | None = None
        self._fresh_state()
        super().__init__(
            self._open,
            pool_size=options.pool_size,
            max_overflow=options.max_overflow,
            timeout=options.timeout,
            use_lifo=options.use_lifo,
            recycle=-1,  # ours is monotonic and jittered
            reset_on_return=None,
            echo=options.echo or None,
            dialect=_Dialect(self),
            **kw,
        )

    def _fresh_state(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[Lease, None] = {}
        self._idle: deque[Any] = deque()
        self._parked: dict[Lease, None] = {}  # of _leases, those that have ended: see resume()
        self._waiters: deque[Lease] = deque()
        self._orphans: deque[OwnerRef] = deque()
        self._open_entries: set[Entry] = set()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._reaped = 0.0
        self.wait_seconds = 0.0
        self.longest_wait = 0.0
        self.peak = 0

    # -- borrowing ---------------------------------------------------------------------------------

    def acquire(self, lease: Lease, owner: Any = None) -> Any:
        """Lend a connection to `lease` and return the driver's own connection object.

        Waits at most options.timeout seconds. Raises PoolTimeout, PoolFull or the driver's error.
        """
        lease.pool = self
        if owner is not None and lease.owner is None:
            ref = OwnerRef(owner, self._orphans.append)
            ref.lease = lease
            lease.owner = ref
        if self._orphans:
            self.reap()
        if self._renews:
            self._renew()
        try:
            if self.dispatch.checkout or self.dispatch.reset:
                # somebody listens to SQLAlchemy's events: take SQLAlchemy's own, slower path
                self._local.lease = lease
                try:
                    lease.fairy = self.connect()
                finally:
                    self._local.lease = None
            else:
                self._obtain(lease, time.monotonic())
            lease.since = time.monotonic()
            record = lease.record
            raw = record.dbapi_connection
            if raw is None or self._invalidate_time or record._soft_invalidate_time:  # SQLAlchemy ended it
                raw = record.get_connection()
            lease.entry = record.entry
            lease.raw = raw
            if self._stacks:
                lease.stack = traceback.extract_stack(limit=24)
        except BaseException:
            self._abort(lease)
            raise
        return raw

    def _do_get(self) -> Any:
        """SQLAlchemy's hook: connect() and our acquire() both end here."""
        lease = getattr(self._local, "lease", None)
        if lease is None:  # plain SQLAlchemy use of the pool
            lease = Lease(alias=self.label)
            lease.pool = self
            try:
                self._obtain(lease, time.monotonic())
            except BaseException:
                self._abort(lease)
                raise
        else:
            self._obtain(lease, time.monotonic())
        return lease.record

    def _plainly_fit(self, entry: Entry, now: float) -> bool:
        """What _fit() would find true without asking the server; False leaves it to _fit()."""
        return (
            self._auto
            and entry.poll is not None
            and not entry.suspect
            and entry.generation == self._generation
            and now < entry.expires
            and now - entry.used < self._unpinged
            and not entry.poll(0)
        )

    def _obtain(self, lease: Lease, start: float) -> None:
        deadline = start + self.options.timeout
        self._claim(lease, start, deadline)
        if lease.record is None:
            self._create(lease, deadline)
        elif not self._plainly_fit(lease.record.entry, time.monotonic()):
            self._prove(lease, deadline)

    def _prove(self, lease: Lease, deadline: float) -> None:
        """It may be asked whether the connection is fit; where it is not, open another."""
        if not self._fit(lease.record):
            self._scrap(lease, lease.record)
            self._create(lease, deadline)

    def _claim(self, lease: Lease, start: float, deadline: float) -> None:
        """Wait in line for an idle connection or for the right to open one."""
        options = self.options
        with self._lock:
            if not self._waiters and self._take(lease):
                return
            waiting = len(self._waiters)
            if options.max_waiting is not None and waiting >= options.max_waiting:
                self.counters["refused"] += 1
                full = True
            else:
                full = False
                self._enqueue(lease)
                self.counters["waits"] += 1
        if full:
            raise PoolFull(
                f"djorm_pool: {waiting} borrowers wait already for {self.label} (max_waiting "
                f"{options.max_waiting}). {self._who()}"
            )
        if start - self._reaped > REAP_EVERY / 10:
            self.reap()  # a connection of a dead thread may be what we wait for
        while not self._wait(lease, min(deadline, time.monotonic() + REAP_EVERY)):
            now = time.monotonic()
            if now >= deadline:
                with self._lock:
                    if lease.granted:
                        break
                    self._waiters.remove(lease)
                    self.counters["timeouts"] += 1
                    self._waited(now - start)
                raise PoolTimeout(
                    f"djorm_pool: no connection for {self.label} within {options.timeout:g} s. {self._who()}"
                )
            self.reap()
        lease.waited = time.monotonic() - start
        with self._lock:
            self._waited(lease.waited)

    def _waited(self, seconds: float) -> None:
        self.wait_seconds += seconds
        if seconds > self.longest_wait:
            self.longest_wait = seconds

    def _take(self, lease: Lease) -> bool:
        """With the lock held: an idle connection, or the right to open one. The lease comes first: see
        above.
        """
        idle = self._idle
        if not idle:
            self._gather(1)
            if not idle and len(self._leases) >= self._limit:
                return False
        self._leases[lease] = None
        lease.granted = True
        if idle:
            self._lend(lease)
        self.counters["checkouts"] += 1
        self._at_most()
        return True

    def _at_most(self) -> None:
        """With the lock held: remember how many were lent at once."""
        lent = len(self._leases) - len(self._parked)
        if lent > self.peak:
            self.peak = lent

    def _lend(self, lease: Lease) -> None:
        """With the lock held, and an idle connection there."""
        idle, wanted = self._idle, lease.prefer
        if wanted is not None and wanted in idle:
            idle.remove(wanted)
        else:
            wanted = idle.pop() if self.options.use_lifo else idle.popleft()
        lease.record = wanted
        wanted.lease = lease

    def _enqueue(self, lease: Lease, first: bool = False) -> None:
        gate = threading.Lock()
        gate.acquire()
        lease.gate = gate
        lease.granted = False
        (self._waiters.appendleft if first else self._waiters.append)(lease)
        self._gather(1)  # who parked one just before saw nobody wait

    def _wait(self, lease: Lease, until: float) -> bool:
        return lease.gate.acquire(timeout=max(0.0, until - time.monotonic())) or lease.granted

    def _grant(self, record: Any = None) -> bool:
        """With the lock held: hand a connection (or, without one, a free place) to the first in line.

        A free place passes over those who have one already and only wait for the server to let them in.
        """
        if not self._waiters:
            return False
        if record is not None:
            lease = self._waiters.popleft()
        else:
            found = next((x for x in self._waiters if x not in self._leases), None)
            if found is None:
                return False
            lease = found
            self._waiters.remove(lease)
        if lease not in self._leases:
            self._leases[lease] = None
            self.counters["checkouts"] += 1
        lease.record = record
        if record is not None:
            record.lease = lease
        self._at_most()
        lease.granted = True
        lease.gate.release()
        return True

    def _abort(self, lease: Lease) -> None:
        """The borrower failed or was interrupted, wherever that was: give back what it may have got."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiters.remove(lease)
        record, lease.record = lease.record, None
        if record is not None and record.dbapi_connection is not None:
            record.invalidate()
        self._free(lease)

    def _free(self, lease: Lease) -> None:
        """The place of this lease is free: the next in line may open a connection."""
        with self._lock:
            if lease in self._leases:
                self._leave(lease)
                self._grant()

    def _leave(self, lease: Lease) -> None:
        """With the lock held: this lease has ended."""
        del self._leases[lease]
        self.counters["checkouts"] += lease.resumed
        lease.resumed = 0

    # -- parking -----------------------------------------------------------------------------------
    # A connection that came back plainly stays with its borrower's lease, who goes on with it at the next
    # request for a fraction of a checkout. Until then it is as good as idle: it is taken before another is
    # opened, and nobody waits while there is one. Who removes the lease from _parked has it: that is one
    # step, so that parking and going on need no lock.

    def resume(self, lease: Lease) -> bool:
        """Whether the borrower goes on with the connection that it parked. If not, it is in the pool now."""
        if self._renews:
            self._renew()
        lease.thread = threading.current_thread()  # first: see reap()
        if self._parked.pop(lease, self) is None:  # from here on nobody else looks at it
            now, record, heard = time.monotonic(), lease.record, self.dispatch
            if not (
                self._waiters
                or self._orphans
                or record.dbapi_connection is not lease.raw
                or not self._plainly_fit(lease.entry, now)
                or self._invalidate_time
                or record._soft_invalidate_time
                or heard.checkout
                or heard.reset
            ):
                lease.since, lease.flags = now, 0
                lease.reclaimed = lease.used = lease.reported = lease.parked = False
                lease.resumed += 1
                if len(self._leases) - len(self._parked) > self.peak:
                    with self._lock:
                        self._at_most()
                return True
            self._parked[lease] = None
        self.give_up(lease)
        return False

    def give_up(self, lease: Lease) -> None:
        """The borrower does not go on with what it parked, or was interrupted while it came or went."""
        with self._lock:  # whoever has taken it has finished then
            self._unpark(lease)
            had = lease in self._leases
        lease.parked = False
        if had:
            self._abort(lease)

    def may_park(self, lease: Lease) -> bool:
        """Whether the connection can stay with a lease that ends."""
        return (
            not self._waiters
            and self._parks
            and lease.entry.poll is not None
            and self._came_back_plain(lease)
        )

    def park(self, lease: Lease) -> None:
        """The lease ends and keeps its connection, which may_park()."""
        entry = lease.entry
        entry.used = time.monotonic()
        entry.lends += 1
        lease.reclaimed = lease.parked = entry.plain = True
        self._parked[lease] = None
        if (
            self._waiters
            or entry.generation != self._generation
            or len(self._idle) + len(self._parked) > self._keep
        ) and self._parked.pop(lease, self) is None:  # it has to come back, unless somebody has it already
            lease.reclaimed = lease.parked = False
            entry.lends -= 1
            self.release(lease)

    def _unpark(self, lease: Lease) -> bool:
        """With the lock held: make this connection an idle one. False: it is not parked."""
        if self._parked.pop(lease, self) is self:
            return False
        record, lease.record, lease.raw = lease.record, None, None
        self._leave(lease)
        record.lease = None
        if not self._grant(record):
            self._idle.append(record)
        return True

    def _gather(self, most: float = float("inf")) -> None:
        """With the lock held: make parked connections idle ones, the one that was parked first at first."""
        if self._parked:
            for lease in list(self._parked):
                most -= self._unpark(lease)
                if most <= 0:
                    return

    # -- opening -----------------------------------------------------------------------------------

    def _create(self, lease: Lease, deadline: float) -> None:
        """Open a connection; wait where the server is full, or away for a moment."""
        pause = BACKOFF[0]
        give_up = None
        while True:
            try:
                self._connect_for(lease)
                return
            except Exception as error:
                wait = self._patience(error, deadline, give_up)
                if wait is None:
                    raise
                give_up = wait
            # keep the place, take what came back while the server was asked, else stand first in line for a
            # returned connection; ask the server again after a pause
            with self._lock:
                if not self._idle:
                    self._gather(1)
                if self._idle:
                    self._lend(lease)
                else:
                    self._enqueue(lease, first=True)
            until = min(give_up, time.monotonic() + pause * random.uniform(0.7, 1.3))  # noqa: S311
            if lease.record is None and not self._wait(lease, until):
                with self._lock:
                    if not lease.granted:
                        self._waiters.remove(lease)
                        lease.granted = True
            record = lease.record
            if record is not None:
                if self._fit(record):
                    return
                self._scrap(lease, record)
            pause = min(pause * 2, BACKOFF[1])

    def _connect_for(self, lease: Lease) -> None:
        """One attempt. Interrupted anywhere, it leaves no open connection that nobody knows of."""
        self._local.opening, self._local.entry = lease, None
        try:
            record = self._create_connection()
            record.lease = lease
            lease.record = record
        finally:
            self._local.opening = None
            entry, self._local.entry = self._local.entry, None
            if entry is not None and lease.record is None:
                self._close_raw(entry.raw)

    def _patience(self, error: Exception, deadline: float, give_up: float | None) -> float | None:
        """Until when to retry after this error (monotonic seconds), or None: raise it."""
        self._count("connect_errors")
        now = time.monotonic()
        if self.driver.is_full(error):
            until = deadline
        elif self.driver.is_away(error):
            until = min(deadline, give_up or now + self.options.connect_retry)
        else:
            return None
        return until if now < until else None

    def _open(self, connection_record: Any) -> Any:
        """SQLAlchemy's creator."""
        generation = self._generation  # before connecting: close_idle() means what is being opened too
        lease = getattr(self._local, "opening", None) or getattr(self._local, "lease", None)
        owner = lease.owner() if lease is not None and lease.owner is not None else None
        if owner is not None:
            raw = owner._djorm_open_for(lease)
        elif self.recipe is not None:
            raw = self.recipe()
        else:
            raise RuntimeError(
                "djorm_pool: this pool has had no borrower yet, so it does not know how to connect."
            )
        if not self.limits:
            self.limits = self.driver.server_limits(raw) or {"known": False}
        entry = Entry(raw, self.driver.fileno(raw), generation, self._lifetime())
        entry.stamp = self.driver.stamp(raw)
        connection_record.entry = self._local.entry = entry
        self._open_entries.add(entry)
        self._count("created")
        logger.debug("connection opened for %s", self.label)
        return raw

    def _lifetime(self) -> float | None:
        """Seconds this connection may live: recycle, never beyond 0.8 of wait_timeout, less some jitter."""
        bounds = []
        if self.options.recycle > 0:
            bounds.append(float(self.options.recycle))
        if self.limits.get("wait_timeout"):
            bounds.append(0.8 * self.limits["wait_timeout"])
        if not bounds:
            return None
        return min(bounds) * (1 - random.uniform(0, self.options.jitter))  # noqa: S311

    # -- is it fit to be lent? ---------------------------------------------------------------------

    def _fit(self, record: Any) -> bool:
        entry: Entry = record.entry
        if record.dbapi_connection is None:
            return False
        now = time.monotonic()
        if entry.generation != self._generation or now >= entry.expires:
            return False
        mode = self.options.pessimistic
        if mode is not False and not self._quiet(entry):
            self._evict_dead()
            return False
        idle = now - entry.used
        if entry.suspect or (mode == "auto" and 0 < self.options.ping_after_idle < idle):
            return self._ping(entry)
        if mode is True:
            return self._ping(entry, self.driver.select_one, watch=idle > 1)
        return True

    def _quiet(self, entry: Entry) -> bool:
        """No round trip: an idle connection has nothing to say, one that the server closed does."""
        try:
            if entry.poll is not None:
                return not entry.poll(0)
            return self.driver.alive(entry)
        except Exception:
            return False  # what cannot be asked is not lent again

    def _ping(self, entry: Entry, how: Callable[[Any], None] | None = None, watch: bool = True) -> bool:
        self._count("pings")
        watchdog = Watchdog(entry.fd, self.options.ping_timeout) if watch and entry.fd is not None else None
        try:
            with watchdog or contextlib.nullcontext():
                (how or self.driver.ping)(entry.raw)
        except Exception as error:
            logger.info("connection of %s failed its check: %s", self.label, error)
            self._evict_dead()
            return False
        if watchdog is not None and watchdog.fired:
            return False
        entry.suspect = False
        return True

    def _scrap(self, lease: Lease, record: Any) -> None:
        """Close an unfit connection; the lease keeps its place."""
        lease.record = None
        self._count("discarded")
        record.invalidate()

    def _evict_dead(self) -> None:
        """One connection was found dead: drop at once the idle ones that are, and ping the others before
        use.
        """
        with self._lock:
            self._gather()
            dead = [r for r in self._idle if not self._quiet(r.entry)]
            for record in dead:
                self._idle.remove(record)
            for record in self._idle:
                record.entry.suspect = True
            self.counters["discarded"] += len(dead)
        for record in dead:
            record.invalidate()

    def suspect(self) -> None:
        """A connection broke in use: look at the idle ones before they are lent."""
        self._evict_dead()

    # -- returning ---------------------------------------------------------------------------------

    def release(self, lease: Lease, broken: bool = False, proof: bool = False) -> None:
        """Take the connection back: roll back and reset where needed, discard it where that fails.

        `proof`: an error occurred, so a rollback has to show that the connection lives. Never raises for a
        broken connection; calling it twice does nothing.
        """
        if lease.record is None or lease.reclaimed:
            return
        lease.reclaimed = True
        if proof:
            lease.flags |= TX
        record = lease.record
        if not broken and self._came_back_plain(lease):
            entry = record.entry
            entry.used = time.monotonic()
            entry.lends += 1
            entry.plain = True
            lease.record = lease.raw = None
            self._do_return_conn(record, lease)
        else:
            self._finish(lease, broken)

    def _came_back_plain(self, lease: Lease) -> bool:
        """There is nothing to clean and nobody to tell: so it is after almost every request."""
        return (
            self._plain
            and not (lease.flags & (DIRTY | TX) or lease.cursors or lease.fairy or self.dispatch.checkin)
            and lease.record.dbapi_connection is lease.raw
            and not self.driver.in_transaction(lease.raw)
        )

    def _finish(self, lease: Lease, broken: bool = False) -> None:
        record = lease.record
        entry = record.entry
        entry.plain = False
        try:
            healthy = not broken and record.dbapi_connection is lease.raw and self._clean(lease)
        except BaseException:
            record.invalidate()
            self._return(lease, record)
            raise
        if not healthy and record.dbapi_connection is not None:
            self._count("discarded")
            record.invalidate()
        entry.used = time.monotonic()
        entry.lends += 1
        self._return(lease, record)

    def _return(self, lease: Lease, record: Any) -> None:
        fairy, lease.fairy = lease.fairy, None
        lease.record = None
        lease.raw = None
        if fairy is None:
            record.checkin(_fairy_was_created=False)
        elif fairy.is_valid and record.dbapi_connection is None:
            fairy.invalidate()
        elif fairy.is_valid:
            fairy.close()

    def _clean(self, lease: Lease) -> bool:
        """Leave nothing of this borrower behind. False: the connection cannot be used again."""
        driver, raw, flags = self.driver, lease.raw, lease.flags
        for ref in lease.cursors:
            cursor = ref()
            if cursor is not None and not cursor.detach():
                return False  # unread rows are still under way
        lease.cursors.clear()
        reset = self.options.reset
        try:
            if reset == "always" or (flags & DIRTY and reset == "auto"):
                lease.entry.ready = False
                self._count("resets")
                return driver.reset(raw, lease.params)
            if flags & TX or driver.in_transaction(raw):
                self._count("rollbacks")
                driver.rollback(raw)
        except Exception as error:
            logger.info("connection of %s could not be cleaned and is dropped: %s", self.label, error)
            self._evict_dead()
            return False
        return True

    def _do_return_conn(self, record: Any, lease: Any = None) -> None:
        """SQLAlchemy's hook: a record comes back, with a live connection or without."""
        if lease is None:
            lease = getattr(record, "lease", None)
        with self._lock:
            if lease not in self._leases:
                return  # its place was given up before
            usable = record.dbapi_connection is not None and record.entry.generation == self._generation
            keep = usable and (self._waiters or len(self._idle) + len(self._parked) < self._keep)
            if keep:
                self._leave(lease)
                record.lease = None
                if not self._grant(record):
                    self._idle.append(record)
                return
        # close first, free the place then: the server must never see more than the limit
        record.close()
        self._free(lease)

    def _close_raw(self, raw: Any) -> None:
        for entry in list(self._open_entries):
            if entry.raw is raw:
                entry.forget_fd()
                self._open_entries.discard(entry)
                break
        self._count("closed")
        logger.debug("connection closed for %s", self.label)
        try:
            self.driver.close(raw)
        except Exception as error:
            logger.debug("closing a connection of %s: %s", self.label, error)

    # -- borrowers that will not come back ---------------------------------------------------------

    def reap(self) -> None:
        """Take back what threads that died, or wrappers that were collected, still hold."""
        self._reaped = time.monotonic()
        while self._orphans:
            try:
                ref = self._orphans.popleft()
            except IndexError:
                break
            self._reclaim(ref.lease)
        with self._lock:
            dead = [
                x
                for x in self.lent()
                if x.owner is not None and x.raw is not None and not x.thread.is_alive()
            ]
            # somebody was interrupted just as he took it, and who parked it will not come for it
            lost = [
                x
                for x in self._leases
                if x.parked
                and x not in self._parked
                and (not x.thread.is_alive() or (x.owner is not None and x.owner() is None))
            ]
        for lease in lost:
            self._abort(lease)
        for lease in dead:
            owner = lease.owner and lease.owner()
            if owner is None or not owner.allow_thread_sharing:
                self._reclaim(lease)

    def _reclaim(self, lease: Lease) -> None:
        with self._lock:
            if lease.reclaimed or lease not in self._leases or lease.raw is None:
                return
            lease.reclaimed = True
            self.counters["reclaimed"] += 1
        owner = lease.owner and lease.owner()
        if owner is not None:
            owner._djorm_forget(lease)
        logger.warning(
            "connection taken back from a borrower that has gone: %s", lease.describe(time.monotonic())
        )
        lease.flags |= DIRTY | TX
        self._finish(lease)

    # -- upkeep: called by a background thread, never by a borrower --------------------------------

    def maintain(self) -> None:
        """Close what is too old or idle for too long, keep alive, open up to min_idle, report leaks."""
        self.reap()
        options = self.options
        if options.renew_file:
            self._renew()
        now = time.monotonic()
        if options.leak_after:
            self._report_leaks(now)

        def surplus(entry: Entry, idle: int) -> bool:
            if entry.generation != self._generation or now >= entry.expires:
                return True
            return 0 < options.idle_timeout <= now - entry.used and idle > options.min_idle

        for lease, record in self._set_aside(surplus):
            record.close()
            self._free(lease)
        if options.keepalive:
            due = self._set_aside(
                lambda entry, idle: now - max(entry.used, entry.checked) >= options.keepalive
            )
            for lease, record in due:
                record.entry.checked = now
                if self._ping(record.entry):
                    self._put_back(lease, record)
                else:
                    record.invalidate()
                    self._free(lease)
        self._fill()

    def _set_aside(self, wanted: Callable[[Entry, int], bool]) -> list[tuple[Lease, Any]]:
        """Take idle connections out of circulation; each keeps its place by a lease of upkeep's own."""
        taken = []
        with self._lock:
            self._gather()
            for record in list(self._idle):
                if wanted(record.entry, len(self._idle)):
                    self._idle.remove(record)
                    lease = record.lease = Lease(alias="upkeep")
                    self._leases[lease] = None
                    taken.append((lease, record))
        return taken

    def _put_back(self, lease: Lease, record: Any) -> None:
        with self._lock:
            if record.entry.generation == self._generation:
                del self._leases[lease]
                record.lease = None
                if not self._grant(record):
                    self._idle.appendleft(record)
                return
        record.close()  # close_idle() ran while it was set aside
        self._free(lease)

    def _fill(self) -> None:
        """Open idle connections up to min_idle; a server that is away is not asked twice a round."""
        while self.recipe is not None:
            lease = Lease(alias="upkeep")
            with self._lock:
                total = len(self._leases) + len(self._idle)
                if self._waiters or self.checkedin() >= self.options.min_idle or total >= self._limit:
                    return
                self._leases[lease] = None
            try:
                self._connect_for(lease)
            except Exception as error:
                self._free(lease)
                self._count("connect_errors")
                logger.info("upkeep could not connect for %s: %s", self.label, error)
                return
            self._put_back(lease, lease.record)

    def _report_leaks(self, now: float) -> None:
        """Log, once, who holds a connection for longer than leak_after, with what that thread is doing
        now.
        """
        frames = sys._current_frames()
        with self._lock:
            held = [x for x in self.lent() if x.owner is not None and not x.reported]
        for lease in held:
            if now - lease.since < self.options.leak_after:
                continue
            lease.reported = True
            self._count("leaks")
            stack, when = lease.stack, "borrowed at"
            if stack is None:
                frame = frames.get(lease.thread.ident or 0)
                stack, when = (traceback.extract_stack(frame, limit=24) if frame else []), "now at"
            text = "".join(traceback.format_list(stack)) or "(its thread has gone)"
            logger.warning("connection held for long: %s; %s:\n%s", lease.describe(now), when, text)

    # -- the whole pool ----------------------------------------------------------------------------

    def close_idle(self) -> None:
        """Close what is idle now; what is lent is closed when it comes back. Cheap, and safe for
        borrowers.
        """
        with self._lock:
            self._generation += 1
            self._gather()
            idle = list(self._idle)
            self._idle.clear()
        for record in idle:
            record.close()
        with self._lock:  # places became free
            while len(self._leases) + len(self._idle) < self._limit and self._grant():
                pass

    def _renew(self) -> None:
        """Where renew_file has changed since the last look: what is idle goes now, what is lent when it comes
        back. So a planned switch cuts no statement off.
        """
        try:
            found = os.stat(self.options.renew_file)
        except OSError:
            return  # nobody says anything
        now = found.st_mtime_ns, found.st_ino
        if now == self._renewal:
            return
        with self._lock:
            known, self._renewal = self._renewal == now, now
        if not known:
            logger.info("connections of %s opened before %s changed go", self.label, self.options.renew_file)
            self.close_idle()

    @property
    def renewed(self) -> int | None:
        """When renew_file last changed (nanoseconds since 1970), as far as this pool knows: its connections
        are younger, or go when they come back.
        """
        return self._renewal[0] if self._renewal else None

    def dispose(self) -> None:
        """SQLAlchemy's name for close_idle()."""
        self.close_idle()
        self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> FairPool:
        """A new, empty pool with the same options."""
        twin = type(self)(self.driver, self.options, self.label, _dispatch=self.dispatch)
        twin.aliases = set(self.aliases)
        twin.recipe = self.recipe
        return twin

    def size(self) -> int:
        """pool_size."""
        return self.options.pool_size

    def checkedin(self) -> int:
        """Idle connections."""
        return len(self._idle) + len(self._parked)

    def checkedout(self) -> int:
        """Connections lent, or being opened for a borrower."""
        return len(self._leases) - len(self._parked)

    def lent(self) -> list[Lease]:
        """What is lent, or being opened for a borrower."""
        return [x for x in list(self._leases) if x not in self._parked]

    def checkouts(self) -> int:
        """How often a connection was lent since the process began."""
        with self._lock:
            return self.counters["checkouts"] + sum(lease.resumed for lease in self._leases)

    def overflow(self) -> int:
        """Connections beyond pool_size; negative while the pool is not full, as SQLAlchemy counts it."""
        return len(self._leases) + len(self._idle) - self.options.pool_size if self.options.pool_size else 0

    def waiting(self) -> int:
        """Borrowers in line."""
        return len(self._waiters)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counters[name] += by

    def _who(self, most: int = 10) -> str:
        """Who holds what since when: the part of the message that helps."""
        now = time.monotonic()
        with self._lock:
            held = self.lent()
            waiting = len(self._waiters)
        listed = "; ".join(x.describe(now) for x in sorted(held, key=lambda x: x.since)[:most])
        more = f"; and {len(held) - most} more" if len(held) > most else ""
        limit = "no limit" if self.options.limit is None else self.options.limit
        return (
            f"{len(held)} of {limit} connections are out, {waiting} wait. Held by {listed or 'nobody'}{more}."
        )

    # -- fork --------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> tuple[Any, list[int], list[Any]]:
        """Forget the parent's connections without touching them.

        Returns what must be kept alive for ever, the descriptors to be pointed at /dev/null, and the wrappers
        that hold one.
        """
        inherited = (
            list(self._open_entries),
            list(self._idle),
            list(self._leases),
            self._waiters,
            self._local,
        )
        fds = [e.fd for e in inherited[0] if e.fd is not None]
        owners = [(x.owner(), x) for x in inherited[2] if x.owner is not None]
        self._local = threading.local()
        self._fresh_state()
        self._generation += 1
        return inherited, fds, owners
