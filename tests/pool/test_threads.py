"""T16 and T17: borrowers that never come back."""

import asyncio
import gc
import threading
import time

from asgiref.sync import sync_to_async
from django.db import connections
from helpers import close, pool, run, value, wait_for


def test_t16_threads_that_die_without_close(any_server):
    alias = any_server.alias(pool={"pool_size": 2, "max_overflow": 1, "timeout": 10})
    gc.disable()
    try:
        wrappers = []

        def careless():
            from djorm_pool import release

            release.request_started(environ={"PATH_INFO": "/careless"})
            wrappers.append(connections[alias])  # kept: not even the collector could help
            run(alias, "SELECT 1")

        for _ in range(12):
            thread = threading.Thread(target=careless)
            thread.start()
            thread.join(10)
        assert not thread.is_alive()
        start = time.monotonic()
        assert value(alias, "SELECT 1") == 1
        assert time.monotonic() - start < 3
        assert pool(alias).counters["reclaimed"] >= 9
        assert pool(alias).checkedout() + pool(alias).checkedin() <= 3
        assert wrappers[0].connection is None
    finally:
        gc.enable()


def test_t16_what_a_dead_thread_left_is_cleaned(server):
    alias = server.alias(pool={"pool_size": 1, "timeout": 10})
    run(alias, "CREATE TABLE IF NOT EXISTS t16 (a INT)")
    run(alias, "DELETE FROM t16")
    close(alias)

    def careless():
        from djorm_pool import release

        release.request_started(environ={})
        connections[alias].set_autocommit(False)
        run(alias, "SET @leak = 1")
        run(alias, "INSERT INTO t16 VALUES (1)")

    thread = threading.Thread(target=careless)
    thread.start()
    thread.join()
    assert value(alias, "SELECT @leak") is None
    assert value(alias, "SELECT COUNT(*) FROM t16") == 0


def test_t16_executor_threads_hold_nothing(server):
    """sync_to_async(thread_sensitive=False): the thread lives on, idle, and no request ends on it."""
    alias = server.alias(pool={"pool_size": 2, "timeout": 5})

    async def many():
        ask = sync_to_async(lambda: value(alias, "SELECT SLEEP(0.01) + 1"), thread_sensitive=False)
        return await asyncio.gather(*[ask() for _ in range(60)])

    assert asyncio.run(many()) == [1] * 60
    assert pool(alias).checkedout() == 0
    assert pool(alias).peak == 2


def test_t17_collector_on_a_foreign_thread(server):
    """Wrappers in cycles, collected in a hot loop by another thread: it only enqueues, no deadlock."""
    alias = server.alias(pool={"pool_size": 3, "timeout": 20})
    stop = threading.Event()
    errors = []

    def collector():
        while not stop.is_set():
            gc.collect()
            time.sleep(0.005)

    def careless():
        try:
            for _ in range(12):
                wrapper = connections[alias].copy()
                wrapper.inc_thread_sharing()  # so that only the collector can tell that it is gone
                with wrapper.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    cursor.fetchall()
                cycle = [wrapper]
                cycle.append(cycle)
                del wrapper, cycle, cursor
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=careless) for _ in range(6)]
    hot = threading.Thread(target=collector)
    hot.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    stop.set()
    hot.join(20)
    assert not errors, errors
    assert not any(t.is_alive() for t in threads)
    gc.collect()
    assert value(alias, "SELECT 1") == 1
    close(alias)
    wait_for(lambda: pool(alias).reap() is None and pool(alias).checkedout() == 0)


def test_t17_the_finaliser_takes_no_lock(server):
    alias = server.alias(pool={"pool_size": 2})
    wrapper = connections[alias].copy()
    wrapper.ensure_connection()
    fair = wrapper.djorm_pool
    with fair._lock:  # a finaliser that wanted it would hang here
        del wrapper
        gc.collect()
    fair.reap()
    wait_for(lambda: fair.checkedout() == 0 and fair.checkedin() == 1)  # upkeep may have been quicker
