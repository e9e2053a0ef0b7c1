"""A whole transaction, or a read, again: where the connection was lost or another transaction was in the way.

A connection that breaks between COMMIT and its acknowledgement leaves open whether the rows are there. Only a
block that may run twice can be repeated then: one that writes under a unique key of its own.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from django.db import DEFAULT_DB_ALIAS, Error, connections, transaction
from django.db.transaction import TransactionManagementError

from .errors import PoolError
from .graft import graft_backend
from .lease import DIRTY, TX

logger = logging.getLogger("djorm.pool")

PAUSE = (0.02, 0.5)  # first and longest between two attempts; a server that is away is waited for in the pool


def atomic(function: Callable[..., Any], using: str | None, within: float) -> Callable[..., Any]:
    """See djorm_pool.retry_atomic."""
    alias = using or DEFAULT_DB_ALIAS

    @functools.wraps(function)
    def block(*args: Any, **kwargs: Any) -> Any:
        connection = connections[alias]
        if not connection.in_atomic_block and not connection.get_autocommit():
            raise TransactionManagementError(
                "retry_atomic: autocommit is off, and what was done before could not be repeated."
            )
        # durable: inside another block a repetition would lack what that one did before
        with transaction.atomic(using=alias, durable=True):
            return function(*args, **kwargs)

    return _again(block, alias, within)


def read(function: Callable[..., Any], using: str | None, within: float) -> Callable[..., Any]:
    """See djorm_pool.retry_read."""
    alias = using or DEFAULT_DB_ALIAS
    repeated = _again(function, alias, within)

    @functools.wraps(function)
    def block(*args: Any, **kwargs: Any) -> Any:
        return (repeated if _stands_alone(connections[alias]) else function)(*args, **kwargs)

    return block


def _stands_alone(connection: Any) -> bool:
    """Whether another connection would do: no transaction has begun, and nobody has changed the session."""
    lease = getattr(connection, "_djorm_lease", None)
    if connection.in_atomic_block or (lease is not None and lease.flags & (DIRTY | TX)):
        return False
    return connection.autocommit if connection.connection else connection.settings_dict["AUTOCOMMIT"]


def _again(function: Callable[..., Any], alias: str, within: float) -> Callable[..., Any]:
    """The function, until it succeeds, fails for good or has no time left."""

    @functools.wraps(function)
    def block(*args: Any, **kwargs: Any) -> Any:
        give_up = time.monotonic() + within
        pause = PAUSE[0]
        while True:
            connection = connections[alias]
            try:
                return function(*args, **kwargs)
            except Error as error:
                nap = pause * random.uniform(0.5, 1)  # noqa: S311
                # still in a block: Django's TestCase, whose transaction went with the error
                if connection.in_atomic_block or time.monotonic() + nap >= give_up:
                    raise
                if not _worth_it(connection, error):
                    raise
                logger.info("%s runs again after %s", getattr(function, "__qualname__", function), error)
            time.sleep(nap)
            pause = min(pause * 2, PAUSE[1])

    return block


def _worth_it(connection: Any, error: Error) -> bool:
    """Whether a second attempt may do better; a connection that is of no use any more is given up."""
    cause = error.__cause__ or error
    if isinstance(cause.__context__, PoolError):
        return False  # its own deadline has passed already
    driver = graft_backend(connection.vendor)._djorm_driver
    if driver.is_fatal(cause) or driver.is_failover(cause):
        connection.close()
    return driver.is_retryable(cause)
