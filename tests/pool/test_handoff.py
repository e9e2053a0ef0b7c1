"""T14, T15, T18, T35: who gets a connection next, and what it is told when there is none."""

import random
import signal
import statistics
import threading
import time
from unittest import mock

import pytest
from django.db import OperationalError, connections
from helpers import DATABASE, close, in_thread, pool, run, value, wait_for


def hold(alias, until):
    """A thread that holds a connection until the event is set."""
    started = threading.Event()

    def work():
        from djorm_pool import release

        release.request_started(environ={"PATH_INFO": "/holder"})
        run(alias, "SELECT 1")
        started.set()
        until.wait(30)
        close(alias)
        release.request_finished()

    thread = threading.Thread(target=work, name="the-holder")
    thread.start()
    assert started.wait(10)
    return thread


@pytest.fixture
def done():
    event = threading.Event()
    yield event
    event.set()


def test_t14_exhaustion_is_an_operational_error_that_names_the_holder(any_server, done):
    alias = any_server.alias(pool={"pool_size": 1, "timeout": 0.3})
    thread = hold(alias, done)
    start = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        run(alias, "SELECT 1")
    assert 0.25 < time.monotonic() - start < 2
    text = str(caught.value)
    assert "the-holder" in text and "/holder" in text and "1 of 1" in text and "within 0.3 s" in text
    assert not any(part in text for part in ("sqlalchemy", any_server.where.get("password") or "\0"))
    done.set()
    thread.join()
    assert value(alias, "SELECT 1") == 1
    assert pool(alias).counters["timeouts"] == 1


def test_t14_max_waiting(server, done):
    alias = server.alias(pool={"pool_size": 1, "timeout": 10, "max_waiting": 1})
    thread = hold(alias, done)
    waiter = threading.Thread(target=lambda: (value(alias, "SELECT 1"), close(alias)))
    waiter.start()
    wait_for(lambda: pool(alias).waiting() == 1)
    start = time.monotonic()
    with pytest.raises(OperationalError, match="max_waiting 1"):
        run(alias, "SELECT 1")
    assert time.monotonic() - start < 0.5
    done.set()
    thread.join()
    waiter.join(10)
    assert value(alias, "SELECT 1") == 1


def test_t14_no_place_is_ever_lost(server):
    """Connecting fails, waiting times out, at random, ten thousand times: the pool stays whole."""
    alias = server.alias(pool={"pool_size": 3, "max_overflow": 1, "timeout": 0.001, "connect_retry": 0})
    value(alias, "SELECT 1")
    close(alias)
    fair = pool(alias)
    true_open = fair._invoke_creator
    rolls = random.Random(4)  # noqa: S311

    def flaky(record):
        if rolls.random() < 0.5:
            raise OperationalError(2003, "injected")
        return true_open(record)

    left = iter(range(10_000))

    def work():
        from djorm_pool import release

        mine = random.Random(threading.get_ident())  # noqa: S311
        release.request_started(environ={})
        for _ in left:
            try:
                connections[alias].ensure_connection()
                if mine.random() < 0.02:
                    connections[alias]._djorm_lease.broken = True
            except OperationalError:
                pass
            connections[alias].close()

    with mock.patch.object(fair, "_invoke_creator", flaky):
        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert fair.checkedout() == 0 and fair.waiting() == 0 and fair.checkedin() <= 3
    assert fair.counters["timeouts"] > 0 and fair.counters["connect_errors"] > 0
    wait_for(lambda: len(server.connected()) == fair.checkedin())
    assert fair.peak <= 4


def test_t15_nobody_starves(server):
    alias = server.alias(pool={"pool_size": 5, "timeout": 30})
    waits, lock = [], threading.Lock()

    def work():
        from djorm_pool import release

        mine = []
        for _ in range(60):
            release.request_started(environ={})
            start = time.perf_counter()
            connections[alias].ensure_connection()
            mine.append(time.perf_counter() - start)
            run(alias, "SELECT 1")
            close(alias)
        with lock:
            waits.extend(mine[5:-5])

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(waits) == 64 * 50
    median = statistics.median(waits)
    assert max(waits) < max(5 * median, median + 0.3), (max(waits), median)
    assert pool(alias).peak == 5


def test_t15_strict_order(server, done):
    alias = server.alias(pool={"pool_size": 1, "timeout": 20})
    thread = hold(alias, done)
    order = []

    def work(number):
        run(alias, "SELECT 1")
        order.append(number)
        close(alias)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        wait_for(lambda n=number: pool(alias).waiting() == n + 1)
    done.set()
    for one in [thread, *threads]:
        one.join(20)
    assert order == list(range(8))


def test_t18_conn_max_age_counts_as_zero(server, caplog):
    from djorm_pool import graft

    graft._warned_max_age.clear()
    alias = server.alias(pool={"pool_size": 1, "timeout": 3}, CONN_MAX_AGE=None)

    def request():
        from djorm_pool import release

        release.request_started(environ={"PATH_INFO": "/"})
        found = value(alias, "SELECT CONNECTION_ID()")
        connections[alias].close_if_unusable_or_obsolete()
        release.request_finished()
        return found

    with caplog.at_level("WARNING", "djorm.pool"):
        numbers = {request() for _ in range(3)} | {in_thread(request) for _ in range(3)}
    assert len(numbers) == 1
    assert [r.getMessage() for r in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "CONN_MAX_AGE" in caplog.text


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_t35_interrupted_waiter(server, done, interrupt):
    """A signal that raises while the main thread waits, or just as it is handed a connection."""
    alias = server.alias(pool={"pool_size": 1, "timeout": 20})
    value(alias, "SELECT 1")
    close(alias)
    fair = pool(alias)

    def handler(*args):
        raise interrupt

    before = signal.signal(signal.SIGALRM, handler)
    rolls = random.Random(35)  # noqa: S311
    stop = threading.Event()

    def neighbour():
        while not stop.is_set():
            connections[alias].ensure_connection()
            time.sleep(0.001)
            connections[alias].close()

    threads = [threading.Thread(target=neighbour) for _ in range(3)]
    for thread in threads:
        thread.start()
    caught = 0
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, rolls.uniform(0.0003, 0.006))
                connections[alias].ensure_connection()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except interrupt:
                caught += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            connections[alias].close()
    finally:
        signal.signal(signal.SIGALRM, before)
        stop.set()
        for thread in threads:
            thread.join(20)
    assert caught > 20
    assert fair.checkedout() == 0 and fair.waiting() == 0
    assert in_thread(value, alias, "SELECT 1") == 1


@pytest.fixture
def one(server):
    """An account that may have one connection."""
    server.create()
    user = "pooltest_full"
    server.ask(f"DROP USER IF EXISTS '{user}'@'%'")
    server.ask(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1")
    server.ask(f"GRANT ALL ON *.* TO '{user}'@'%'")
    yield user
    server.ask(f"DROP USER '{user}'@'%'")


def test_what_comes_back_while_a_full_server_is_asked_is_not_overlooked(server, one, monkeypatch):
    """Nobody stood in line at that moment: it is idle, and the server will never let another in."""
    alias = server.alias(pool={"pool_size": 3, "timeout": 5}, USER=one, PASSWORD="x")
    try:
        assert value(alias, "SELECT 1") == 1
        refused, returned = threading.Event(), threading.Event()
        attempt = type(pool(alias))._connect_for

        def connect(self, lease):
            try:
                attempt(self, lease)
            except Exception:
                refused.set()
                assert returned.wait(10)
                raise

        monkeypatch.setattr(type(pool(alias)), "_connect_for", connect)
        box = []
        thread = threading.Thread(target=lambda: (box.append(value(alias, "SELECT 2")), close(alias)))
        thread.start()
        assert refused.wait(10)
        close(alias)
        returned.set()
        thread.join(10)
        assert box == [2]
        assert pool(alias).counters["created"] == 1
    finally:
        connections[alias].close_pool()


def test_a_full_server_makes_the_borrower_wait(server, one):
    """1226: the account's limit. A connection of somebody else goes away, and the borrower gets in."""
    user = one
    import MySQLdb

    where = server.where
    other = MySQLdb.connect(host=where["host"], port=int(where["port"]), user=user, password="x")
    timer = threading.Timer(0.6, other.close)
    try:
        alias = server.alias(pool={"pool_size": 3, "timeout": 10}, USER=user, PASSWORD="x")
        timer.start()
        start = time.monotonic()
        assert value(alias, "SELECT 1") == 1
        assert time.monotonic() - start > 0.4
        assert pool(alias).counters["connect_errors"] > 1
        assert pool(alias).limits["max_user_connections"] == 1  # the account's own, not the server's
        # and a second borrower takes over the first one's connection when it comes back
        box = []
        thread = threading.Thread(target=lambda: (box.append(value(alias, "SELECT 2")), close(alias)))
        thread.start()
        time.sleep(0.3)
        close(alias)
        thread.join(10)
        assert box == [2]
        # the deadline holds
        short = server.alias(pool={"pool_size": 1, "timeout": 0.5}, USER=user, PASSWORD="x")
        start = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            value(short, "SELECT 1")
        assert caught.value.args[0] == 1226
        assert time.monotonic() - start < 3
        close(short)
    finally:
        timer.cancel()
        close(alias)


def test_a_server_without_a_place_makes_the_borrower_wait(server):
    """1040: max_connections. Somebody leaves, and the borrower gets in; nobody does: the deadline ends it."""
    import MySQLdb

    server.create()
    user = "pooltest_1040"
    server.ask(f"DROP USER IF EXISTS '{user}'@'%'")
    server.ask(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'x'")
    server.ask(f"GRANT ALL ON {DATABASE}.* TO '{user}'@'%'")  # no place of its own, as an administrator has
    most = server.ask("SELECT @@global.max_connections")[0][0]
    where, others, timer = server.where, [], None
    try:
        server.ask("SET GLOBAL max_connections = 12")
        with pytest.raises(MySQLdb.OperationalError, match="1040"):
            for _ in range(20):
                others.append(
                    MySQLdb.connect(host=where["host"], port=int(where["port"]), user=user, password="x")
                )
        alias = server.alias(pool={"pool_size": 3, "timeout": 10}, USER=user, PASSWORD="x", create=False)
        timer = threading.Timer(0.6, others.pop().close)
        timer.start()
        start = time.monotonic()
        assert value(alias, "SELECT 1") == 1
        assert time.monotonic() - start > 0.4
        assert pool(alias).counters["connect_errors"] > 1
        # its connection keeps the last place: the next one waits as long as it may, and hears why
        short = server.alias(pool={"pool_size": 1, "timeout": 0.5}, USER=user, PASSWORD="x", create=False)
        start = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            value(short, "SELECT 1")
        assert caught.value.args[0] == 1040
        assert 0.4 < time.monotonic() - start < 3
        close(alias)
        assert pool(short).checkedout() == 0
    finally:
        if timer is not None:
            timer.cancel()
        for other in others:
            other.close()
        server.ask(f"SET GLOBAL max_connections = {most}")
        server.ask(f"DROP USER '{user}'@'%'")


def test_sqlalchemy_events_and_status_keep_working(server):
    from sqlalchemy import event

    alias = server.alias(pool={"pool_size": 1})
    seen = []
    fair = pool(alias)
    for name in ("connect", "checkout", "checkin", "invalidate", "close"):
        event.listen(fair, name, lambda *args, name=name: seen.append(name))
    value(alias, "SELECT 1")
    assert "Pool size: 1" in fair.status() and "Checked out connections: 1" in fair.status()
    close(alias)
    assert seen == ["connect", "checkout", "checkin"]
    value(alias, "SELECT 1")
    connections[alias]._djorm_lease.broken = True
    close(alias)
    assert seen[3:] == ["checkout", "invalidate", "close", "checkin"]
    assert (fair.checkedout(), fair.checkedin()) == (0, 0)
    # plain SQLAlchemy use, and its context manager
    value(alias, "SELECT 1")
    close(alias)
    with fair.connect() as proxied:
        assert fair.checkedout() == 1
        assert proxied.dbapi_connection.thread_id() > 0
    assert (fair.checkedout(), fair.checkedin()) == (0, 1)
