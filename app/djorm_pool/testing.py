"""Assertions for your own tests.

class ViewTests(PoolAssertions, TransactionTestCase):
    def test_report(self):
        with self.assertNoPoolLeaks(), self.assertMaxConnections(1):
            self.client.get("/report/")
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from django.db import connections

from . import registry


class PoolAssertions:
    """Mixin for unittest.TestCase."""

    @contextlib.contextmanager
    def assertNoPoolLeaks(self, using: str | None = None) -> Iterator[None]:
        """What is borrowed in the block is given back by its end; this thread's own connection is closed
        there.
        """
        before = {lease for pool in registry.pools(using) for lease in pool.lent()}
        yield
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block and (using is None or connection.alias == using):
                connection.close()
        end = time.monotonic() + 1  # a thread may be on its way out
        while True:
            held = [x for pool in registry.pools(using) for x in pool.lent() if x not in before]
            if not held or time.monotonic() > end:
                break
            time.sleep(0.01)
        if held:
            now = time.monotonic()
            raise AssertionError(
                "connections were not given back: " + "; ".join(x.describe(now) for x in held)
            )

    @contextlib.contextmanager
    def assertMaxConnections(self, most: int, using: str = "default") -> Iterator[None]:
        """At no time in the block more than `most` connections of the alias are lent."""
        for pool in registry.pools(using):
            pool.peak = pool.checkedout()
        yield
        peak = max((pool.peak for pool in registry.pools(using)), default=0)
        if peak > most:
            raise AssertionError(f"{peak} connections of {using!r} were lent at once, {most} allowed")
