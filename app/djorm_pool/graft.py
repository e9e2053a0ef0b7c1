"""The graft: Django's stock DatabaseWrapper learns to borrow its connection.

Methods are replaced in place on the stock class, once a process. So every subclass (GIS, django-prometheus, a
token-authenticating one of your own), whenever it was imported, and every wrapper that exists already takes
part;
and the two switches (INSTALLED_APPS, ENGINE) can be on together, because there is one graft and it pools
once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import operator
import sys
import time
from threading import get_ident
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property

from . import registry, release
from .cursor import track, tracked
from .errors import PoolError, SessionStateLost
from .lease import Lease

logger = logging.getLogger("djorm.pool")
_warned_max_age: set[str] = set()


def graft(cls: type, driver: Any) -> None:
    """Graft the pool onto this stock DatabaseWrapper class. Idempotent.

    It does nothing by itself: wrappers borrow only where `djorm_pool_enabled` is true on their class.
    """
    if "_djorm_driver" in cls.__dict__:
        return
    cls._djorm_driver = driver
    cls._djorm_open = cls.get_new_connection
    for name, value in _STATE.items():
        setattr(cls, name, value)
    for name, make in _GRAFTS.items():
        original = getattr(cls, name)
        setattr(cls, name, functools.wraps(original)(make(original)))
    for name, function in _ADDED.items():
        setattr(cls, name, function)
    for name, prop in _PROPERTIES.items():
        prop.__set_name__(cls, name)
        setattr(cls, name, prop)
    cls._djorm_params, cls._djorm_close = cls.get_connection_params, cls._close
    cls._djorm_cursors = _cursors(cls, driver)
    if "mysql_server_data" in cls.__dict__:
        _share_server_data(cls)
    _graft_creation(cls.creation_class)


def _cursors(cls: type, driver: Any) -> tuple[Any, Any]:
    """The class of the backend's cursors, where it is a thin wrapper, and the same with tracking."""
    stock = sys.modules[cls.__module__].CursorWrapper if driver.thin_cursors else None
    return stock, stock and tracked(stock)


def pool_options(self: Any) -> Any:
    """The options of this wrapper, or None where it does not pool. Raises ImproperlyConfigured."""
    if not self.djorm_pool_enabled or self.alias == NO_DB_ALIAS:
        return None
    cache = self._djorm_options
    given = self.settings_dict["OPTIONS"].get("pool")
    if cache is None or cache[0] != registry.epoch or cache[1] is not given:
        options = None
        if self._djorm_driver.poolable(self) and not _native_pool(self, given):
            options = registry.options_for(self)
        cache = self._djorm_options = (registry.epoch, given, options)
    return cache[2]


def _native_pool(self: Any, given: Any) -> bool:
    """PostgreSQL's stock ENGINE with OPTIONS["pool"] means Django's own pool: never pool twice."""
    return bool(given) and self.vendor == "postgresql" and not is_our_engine(self)


def is_our_engine(self: Any) -> bool:
    """Whether the alias names one of our ENGINEs."""
    return any(k.__module__.startswith("djorm_pool.backends.") for k in type(self).__mro__)


# -- state and additions ---------------------------------------------------------------------------

_STATE: dict[str, Any] = {
    "djorm_pool_enabled": False,
    "_djorm_lease": None,
    "_djorm_options": None,
    "_djorm_cache": None,
    "_djorm_quiet": False,
    "_djorm_connecting": False,
    "_djorm_last": None,
    "_djorm_again": None,
}


def _forget(self: Any, lease: Lease) -> None:
    """The connection has been taken away (fork, dead thread): know nothing of it any more."""
    if self._djorm_lease is lease:
        self._djorm_lease = None
        self.connection = None
        if self.in_atomic_block:  # what was begun is lost; refuse to go on in autocommit
            self.closed_in_transaction = True
            self.needs_rollback = True


def _close_pool(self: Any) -> None:
    """Close the idle connections of this alias; lent ones when they come back. Cheap and thread-safe."""
    registry.close_pools(self.alias)


def _pool_property(self: Any) -> Any:
    """The djorm_pool pool that this wrapper borrows from, or None where it does not."""
    if pool_options(self) is None:
        return None
    return _pool(self, self.get_connection_params())


def _open_for(self: Any, lease: Lease) -> Any:
    """How the pool opens a connection for a borrower."""
    lease.pool.recipe = functools.partial(_open_alone, type(self), dict(self.settings_dict), self.alias)
    return self._djorm_open(lease.params)


def _open_alone(cls: Any, settings_dict: dict[str, Any], alias: str) -> Any:
    """How upkeep opens a connection: with the latest borrower's class and settings."""
    wrapper = cls(settings_dict, alias)
    return wrapper._djorm_open(wrapper.get_connection_params())


_ADDED: dict[str, Any] = {
    "_djorm_forget": _forget,
    "_djorm_open_for": _open_for,
    "_djorm_same_connection": release.same_connection,
    "djorm_pool": property(_pool_property),
}


class _ErrorWrapper(DatabaseErrorWrapper):
    """Django's translation of errors, which also tells the lease."""

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        if exc_type is None:
            return
        lease = self.wrapper._djorm_lease
        if isinstance(exc_value, SessionStateLost):
            kind = self.wrapper.Database.OperationalError
            exc_value = kind(*self.wrapper._djorm_driver.error_args(str(exc_value)))
            exc_type = kind
        elif lease is not None and lease.raw is not None:
            _notice(self.wrapper, lease, exc_value)
        super().__exit__(exc_type, exc_value, traceback)


def _notice(self: Any, lease: Lease, error: BaseException) -> None:
    driver = self._djorm_driver
    if driver.is_failover(error):
        logger.warning("%s: all connections are dropped after %s", lease.pool.label, error)
        lease.broken = True
        lease.pool.close_idle()
    elif driver.is_fatal(error):
        lease.broken = True
        lease.pool.suspect()


_PROPERTIES = {"wrap_database_errors": cached_property(_ErrorWrapper)}


# -- grafted methods -------------------------------------------------------------------------------


def _get_connection_params(original: Any) -> Any:
    def get_connection_params(self: Any) -> Any:
        params = original(self)
        params.pop("pool", None)  # ours; the driver does not know it
        return params

    return get_connection_params


def _pool(self: Any, params: Any) -> Any:
    options = pool_options(self)
    autocommit = self.settings_dict["AUTOCOMMIT"]
    cache = self._djorm_cache
    if (
        cache is not None
        and cache[0] == registry.epoch
        and cache[1] == params
        and cache[2] == autocommit
        and cache[3] is options
        and cache[4] == self._djorm_driver.key_extras(self)
    ):
        return cache[5]
    pool = registry.pool_for(self, params, options, self._djorm_driver)
    self._djorm_cache = (
        registry.epoch,
        params,
        autocommit,
        options,
        self._djorm_driver.key_extras(self),
        pool,
    )
    return pool


def _get_new_connection(original: Any) -> Any:
    def get_new_connection(self: Any, conn_params: Any) -> Any:
        if pool_options(self) is None:
            return original(self, conn_params)
        leftover = self._djorm_lease
        if leftover is not None:  # somebody set `connection` to None behind our back
            self._djorm_lease = None
            leftover.pool.release(leftover, broken=True)
        pool = _pool(self, conn_params)
        lease = Lease(self.alias)
        lease.params = conn_params
        return _borrow(self, pool, lease)

    return get_new_connection


def _borrow(self: Any, pool: Any, lease: Lease) -> Any:
    """Borrow for this wrapper. Raises the driver's OperationalError where the pool has nothing to lend."""
    lease.path = release.current_path()
    if self._djorm_last is not None:
        lease.prefer = self._djorm_last[0]
    self._djorm_lease = lease
    try:
        raw = pool.acquire(lease, self)
    except PoolError as error:
        self._djorm_lease = None
        message = str(error)
        raise self.Database.OperationalError(*self._djorm_driver.error_args(message)) from None
    except BaseException:
        self._djorm_lease = None
        pool.release(lease, broken=True)  # where it was interrupted just as it had one
        raise
    self._djorm_driver.adopt(self)
    return raw


# what decides about the pool and the session's initialisation; OPTIONS can be changed in place
_decisive = operator.itemgetter(
    "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS", "AUTOCOMMIT", "TIME_ZONE", "CONN_MAX_AGE"
)


class _Again:
    """What a wrapper borrowed with, and the settings that this followed from."""

    __slots__ = ("epoch", "lease", "options", "pool", "settings")

    def __init__(self, wrapper: Any, lease: Lease) -> None:
        self.lease, self.pool, self.epoch = lease, lease.pool, registry.epoch
        self.settings = _decisive(wrapper.settings_dict)
        self.options = copy.deepcopy(wrapper.settings_dict["OPTIONS"])

    def holds(self, wrapper: Any) -> bool:
        """Nothing that decides has changed since."""
        settings = wrapper.settings_dict
        return (
            self.epoch == registry.epoch
            and self.settings == _decisive(settings)
            and self.options == settings["OPTIONS"]
            and wrapper.djorm_pool_enabled
            and not connection_created.receivers
        )


def _may_borrow_again(self: Any) -> bool:
    """Whether Django's connect() would do for the next borrowing just what _borrow_again() does."""
    settings = self.settings_dict
    return (
        self._djorm_driver.plain_sessions
        and settings["AUTOCOMMIT"]
        and settings["CONN_MAX_AGE"] == 0
        and settings["TIME_ZONE"] is None
        and not connection_created.receivers
        # a subclass may make them anew each time
        and type(self).get_connection_params is type(self)._djorm_params
    )


def _borrow_again(self: Any, again: _Again) -> None:
    """Django's connect() without what is known from the borrowing before: a third of its time."""
    lease = again.lease
    lease.renew()
    lease.regular = True
    raw = _borrow(self, again.pool, lease)
    self.in_atomic_block = self.needs_rollback = self.closed_in_transaction = self.errors_occurred = False
    self.savepoint_ids, self.atomic_blocks, self.run_on_commit = [], [], []
    self.health_check_enabled = self.settings_dict["CONN_HEALTH_CHECKS"]
    self.health_check_done = True
    self.close_at = lease.since
    self.connection = raw
    self.autocommit = True
    entry = lease.entry
    if not (entry.plain and entry.ready):
        self._djorm_connecting = True
        self.autocommit = False
        self.set_autocommit(True)
        self.init_connection_state()


def _connect(original: Any) -> Any:
    def connect(self: Any) -> None:
        again = self._djorm_again
        if again is None or self._djorm_lease is not None or not again.holds(self):
            if again is not None and again.lease.parked:
                again.pool.give_up(again.lease)
            again = self._djorm_again = None
            options = pool_options(self)
            if options is None:
                original(self)
                return
            _warn_of_max_age(self)
        give_up = None
        while True:
            try:
                if again is not None:
                    lease = self._djorm_lease = again.lease
                    if lease.parked and again.pool.resume(lease):
                        lease.path = release.current_path()
                        self.connection = lease.raw  # and the rest of the wrapper is as it left it
                    else:
                        _borrow_again(self, again)
                    return
                self._djorm_connecting = True
                original(self)
                break
            except BaseException as error:
                lease, self._djorm_lease = self._djorm_lease, None
                if lease is not None:
                    again = self._djorm_again = self.connection = None
                    if lease.parked:
                        lease.pool.give_up(lease)
                    lease.pool.release(lease, broken=True)
                    give_up = give_up or time.monotonic() + lease.pool.options.connect_retry
                    # the server went away between connecting and the first statement of the session's
                    # initialisation: nothing of the borrower's has run, so it may start again
                    if _lost(self, error) and time.monotonic() < give_up:
                        time.sleep(0.05)
                        continue
                raise
            finally:
                self._djorm_connecting = False
        lease = self._djorm_lease
        if lease is not None and lease.used:  # receivers of connection_created have sent statements
            lease.used, lease.foreign = False, True
        if self.settings_dict["CONN_MAX_AGE"] != 0:
            self.close_at = time.monotonic()
        if lease is not None and _may_borrow_again(self):
            with contextlib.suppress(Exception):  # options that cannot be copied cannot be compared either
                self._djorm_again = _Again(self, lease)

    return connect


def _warn_of_max_age(self: Any) -> None:
    max_age = self.settings_dict["CONN_MAX_AGE"]
    if max_age != 0 and self.alias not in _warned_max_age:
        _warned_max_age.add(self.alias)
        logger.warning(
            "DATABASES[%r]['CONN_MAX_AGE'] is %r: a pooled connection goes back after each request, so it "
            "counts as 0. Set it to 0.",
            self.alias,
            max_age,
        )


def _lost(self: Any, error: BaseException) -> bool:
    cause = error if isinstance(error, self.Database.Error) else error.__cause__
    return cause is not None and self._djorm_driver.is_away(cause)


def _init_connection_state(original: Any) -> Any:
    def init_connection_state(self: Any) -> None:
        lease = self._djorm_lease
        if lease is None or lease.entry is None:
            original(self)
        elif lease.entry.ready and self._djorm_connecting:  # done before, and nobody has changed it since
            BaseDatabaseWrapper.init_connection_state(self)
        else:
            self._djorm_quiet = True
            try:
                original(self)
            finally:
                self._djorm_quiet = False
            lease.entry.ready = True

    return init_connection_state


def _prepare_cursor(original: Any) -> Any:
    def _prepare_cursor(self: Any, cursor: Any) -> Any:
        lease = self._djorm_lease
        if lease is not None and lease.raw is not None:
            cursor = track(cursor, self, lease)
        return original(self, cursor)

    return _prepare_cursor


def _close(original: Any) -> Any:
    def _close(self: Any) -> None:
        lease = self._djorm_lease
        if lease is None:
            original(self)
            return
        self._djorm_lease = self._djorm_last = None
        # None also inside atomic(), where Django would keep the handle: it is somebody else's from here on
        raw, self.connection = self.connection, None
        lease.pool.release(lease, broken=lease.broken or raw is not lease.raw, proof=self.errors_occurred)

    return _close


def _close_if_unusable_or_obsolete(original: Any) -> Any:
    def close_if_unusable_or_obsolete(self: Any) -> None:
        lease = self._djorm_lease
        if lease is not None:
            # whether it is usable is the pool's business
            if self.connection is not None and not (lease.regular and release.park(self, lease)):
                release.end(self)
        elif self.connection is not None:
            original(self)

    return close_if_unusable_or_obsolete


def _is_usable(original: Any) -> Any:
    def is_usable(self: Any) -> bool:
        return self.connection is not None and original(self)  # it may have gone back to the pool

    return is_usable


def _validate_thread_sharing(original: Any) -> Any:
    def validate_thread_sharing(self: Any) -> None:
        if self._thread_ident != get_ident():  # the owner need not take a lock to hear that it may
            original(self)

    return validate_thread_sharing


_GRAFTS = {
    "validate_thread_sharing": _validate_thread_sharing,
    "is_usable": _is_usable,
    "get_connection_params": _get_connection_params,
    "get_new_connection": _get_new_connection,
    "connect": _connect,
    "init_connection_state": _init_connection_state,
    "_prepare_cursor": _prepare_cursor,
    "_close": _close,
    "close_if_unusable_or_obsolete": _close_if_unusable_or_obsolete,
    "set_autocommit": release.graft_set_autocommit,
    "get_autocommit": lambda original: release.graft_get_autocommit(original, pool_options),
}


def _share_server_data(cls: Any) -> None:
    """MySQL: Django asks each new wrapper's server for its version; ASGI has a new wrapper a request."""
    original = cls.__dict__["mysql_server_data"].func

    def mysql_server_data(self: Any) -> Any:
        if pool_options(self) is None:
            return original(self)
        pool = self.djorm_pool
        if pool.server_data is None:
            pool.server_data = original(self)
        return dict(pool.server_data)

    prop = cached_property(mysql_server_data)
    prop.__set_name__(cls, "mysql_server_data")
    cls.mysql_server_data = prop


def _graft_close_pool(cls: Any) -> None:
    """close_pool(), the name that Django and Celery use. PostgreSQL's own is kept for its own pool."""
    original = getattr(cls, "close_pool", None)

    def close_pool(self: Any) -> None:
        if original is not None and _native_pool(self, self.settings_dict["OPTIONS"].get("pool")):
            original(self)
        else:
            _close_pool(self)

    cls.close_pool = close_pool
    if isinstance(cls.__dict__.get("pool"), property):  # PostgreSQL: stock code must see no pool of its own
        native = cls.__dict__["pool"].fget
        cls.pool = property(lambda self: native(self) if _djorm_off(self) else None)


def _djorm_off(self: Any) -> bool:
    return pool_options(self) is None and not is_our_engine(self)


def _graft_creation(cls: Any) -> None:
    """Around every change of databases by the test runner, nothing of the alias stays connected to the old
    one.
    """
    for name in ("create_test_db", "_clone_test_db", "destroy_test_db", "setup_worker_connection"):
        original = getattr(cls, name)

        def method(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            registry.close_pools(self.connection.alias)
            try:
                return _original(self, *args, **kwargs)
            finally:
                registry.close_pools(self.connection.alias)

        setattr(cls, name, functools.wraps(original)(method))


# -- switches --------------------------------------------------------------------------------------


def graft_backend(vendor: str) -> type:
    """Graft the stock backend of this vendor and return its DatabaseWrapper. Raises ImproperlyConfigured."""
    if vendor == "mysql":
        from django.db.backends.mysql import base

        from .drivers.mysql import driver
    elif vendor == "postgresql":
        from django.db.backends.postgresql import base

        from .drivers.postgresql import driver
    elif vendor == "sqlite":
        from django.db.backends.sqlite3 import base

        from .drivers.sqlite3 import driver
    else:
        raise ImproperlyConfigured(
            f"djorm_pool has no driver for {vendor!r}: it pools mysql, postgresql and sqlite."
        )
    first = "_djorm_driver" not in base.DatabaseWrapper.__dict__
    graft(base.DatabaseWrapper, driver)
    if first:
        _graft_close_pool(base.DatabaseWrapper)
    return base.DatabaseWrapper
