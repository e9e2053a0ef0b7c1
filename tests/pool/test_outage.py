"""T28 to T31: clocks, restarts, half-open sockets, high descriptors."""

import contextlib
import os
import resource
import socket
import threading
import time
from unittest import mock

import pytest
from django.db import Error, OperationalError, connections
from helpers import DATABASE, close, in_thread, pool, run, value, wait_for


def fill(alias, count):
    """`count` idle connections; their ids."""
    held = [connections[alias].copy() for _ in range(count)]
    numbers = []
    for wrapper in held:
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID()")
            numbers.append(cursor.fetchone()[0])
    for wrapper in held:
        wrapper.close()
    return numbers


def test_t28_recycle_ignores_the_wall_clock(server):
    alias = server.alias(pool={"pool_size": 1, "recycle": 3600})
    number = value(alias, "SELECT CONNECTION_ID()")
    close(alias)
    for step in (86400, -86400):
        with mock.patch("time.time", return_value=time.time() + step):
            assert value(alias, "SELECT CONNECTION_ID()") == number
            close(alias)
    later = time.monotonic() + 3700
    with mock.patch("djorm_pool.pool.time.monotonic", return_value=later):
        assert value(alias, "SELECT CONNECTION_ID()") != number
    close(alias)


def test_recycle_has_jitter_and_respects_wait_timeout(server):
    alias = server.alias(
        pool={"pool_size": 8, "recycle": 3600}, options={"init_command": "SET SESSION wait_timeout = 100"}
    )
    fill(alias, 8)
    lives = [r.entry.expires - r.entry.born for r in pool(alias)._idle]
    assert all(0.8 * 100 * 0.9 - 1 <= life <= 0.8 * 100 for life in lives), lives
    assert len({round(life, 3) for life in lives}) > 4


@pytest.mark.parametrize("pessimistic", ["auto", True, False])
def test_a_killed_connection_is_noticed(server, pessimistic):
    alias = server.alias(pool={"pool_size": 3, "pessimistic": pessimistic})
    numbers = fill(alias, 3)
    for number in numbers:
        server.kill(number)
    errors = 0
    for _ in range(6):
        try:
            value(alias, "SELECT 1")
        except Error:
            errors += 1
        close(alias)
    # without a check the first borrower meets the broken one, and the others are spared
    assert errors == (1 if pessimistic is False else 0)


def test_auto_costs_no_round_trip_and_true_costs_one(server):
    def selects():
        return int(server.ask("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

    counts = {}
    for mode in ("auto", True):
        alias = server.alias(pool={"pool_size": 1, "pessimistic": mode})
        value(alias, "SELECT 1")
        close(alias)
        before = selects()
        for _ in range(20):
            value(alias, "SELECT 1")
            close(alias)
        counts[mode] = selects() - before
    # Questions counts COM_QUERY; SHOW STATUS itself and its autocommit are in both
    assert counts[True] - counts["auto"] == 20
    assert 20 <= counts["auto"] <= 24


def test_t29_restart_with_idle_connections(server):
    alias = server.alias(pool={"pool_size": 6, "connect_retry": 30, "timeout": 40, "pessimistic": "auto"})
    fill(alias, 6)
    before = set(pool(alias)._open_entries)
    results, stop = [], threading.Event()

    def requests():
        from djorm_pool import release

        while not stop.is_set():
            release.request_started(environ={})
            start = time.monotonic()
            try:
                results.append((time.monotonic(), value(alias, "SELECT CONNECTION_ID()"), None))
            except Error as error:
                results.append((time.monotonic(), None, error))
            connections[alias].close()
            time.sleep(max(0, 0.02 - (time.monotonic() - start)))

    threads = [threading.Thread(target=requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    server.restart()
    back = time.monotonic()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join(60)
    failed = [error for _, _, error in results if error]
    assert len(failed) <= 4, failed  # at most what was in flight
    assert not [1 for when, _, error in results if error and when > back + 0.2]
    assert any(when > back for when, _, error in results if not error)
    # none of them is left. Not asked by "discarded": MySQL may still answer a last statement with error 1053
    # ("Server shutdown in progress"), which closes all idle ones at once and discards only the asker's own.
    assert len(before) == 6 and not before & pool(alias)._open_entries
    counters = pool(alias).counters
    assert counters["closed"] >= 6 and counters["discarded"] >= 1
    assert counters["created"] - counters["closed"] == len(pool(alias)._open_entries)


class Proxy:
    """A TCP proxy that can freeze: the peer neither answers nor closes. It may cut the first connections off
    when they ask for TLS.
    """

    def __init__(self, host, port, cuts=0):
        self.target = (host, int(port))
        self.cuts = cuts
        self.frozen = threading.Event()
        self.closed = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.sockets += [client, server]
            if self.cuts:
                self.cuts -= 1
                client.sendall(server.recv(65536))  # the server's greeting
                client.recv(65536)
                self._end(client)
                self._end(server)
                continue
            frozen = self.frozen
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, b, frozen), daemon=True).start()

    def _pump(self, source, sink, frozen):
        try:
            while data := source.recv(65536):
                if frozen.is_set():
                    self.closed.wait(60)
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            self._end(sink)

    @staticmethod
    def _end(one):
        """close() alone says nothing to the peer while another thread is in recv() or accept() there."""
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

    def thaw_for_new(self):
        self.frozen = threading.Event()

    def close(self):
        self.closed.set()
        for one in [self.listener, *self.sockets]:
            self._end(one)


def test_t30_half_open_connection(server):
    """The peer is gone without a word: poll() says quiet, so after a long idle time a ping asks."""
    server.create()
    proxy = Proxy(server.where["host"], server.where["port"])
    try:
        alias = server.alias(
            pool={"pool_size": 1, "ping_after_idle": 0.2, "ping_timeout": 0.5},
            HOST="127.0.0.1",
            PORT=str(proxy.port),
        )
        number = value(alias, "SELECT CONNECTION_ID()")
        close(alias)
        proxy.frozen.set()
        proxy.thaw_for_new()
        time.sleep(0.4)
        start = time.monotonic()
        other = in_thread(value, alias, "SELECT CONNECTION_ID()")
        assert other != number
        assert 0.3 < time.monotonic() - start < 4
    finally:
        drop = connections[alias]
        drop.close()
        drop.close_pool()
        proxy.close()


def test_tls_that_is_cut_off_is_an_outage(server):
    """As by a proxy that is reloaded while a connection is made through it."""
    server.create()
    proxy = Proxy(server.where["host"], server.where["port"], cuts=2)
    alias = server.alias(
        pool={"pool_size": 1},
        options={"ssl_mode": "REQUIRED"},
        HOST="127.0.0.1",
        PORT=str(proxy.port),
    )
    try:
        assert value(alias, "SELECT 1") == 1
        assert proxy.cuts == 0
    finally:
        connections[alias].close()
        connections[alias].close_pool()
        proxy.close()


@pytest.mark.parametrize(
    "text",  # MariaDB's client library, then MySQL's
    [
        "TLS/SSL error: Broken pipe (32)",
        "TLS/SSL error: Connection reset by peer (104)",
        "TLS/SSL error: Resource temporarily unavailable (11)",  # the connect_timeout, within the handshake
        "TLS/SSL error: unexpected eof while reading",
        "SSL connection error: error:00000000:lib(0)::reason(0)",
        "SSL connection error: error:00000005:lib(0)::reason(5)",
    ],
)
def test_tls_that_ends_without_an_answer_is_an_outage(text):
    import MySQLdb
    from djorm_pool.drivers.mysql import driver

    error = MySQLdb.OperationalError(2026, text)
    assert driver.is_away(error)
    assert driver.is_retryable(error)


@pytest.mark.parametrize(
    "text", ["certificate verify failed", "Certificate verification failure: self-signed"]
)
def test_a_refused_certificate_is_no_outage(text):
    import MySQLdb
    from djorm_pool.drivers.mysql import driver

    error = MySQLdb.OperationalError(2026, f"TLS/SSL error: {text}")
    assert not driver.is_away(error)
    assert not driver.is_retryable(error)


def test_t31_descriptors_above_1023(server):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    blockers = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        alias = server.alias(pool={"pool_size": 1})
        number = value(alias, "SELECT CONNECTION_ID()")
        close(alias)
        assert pool(alias)._idle[0].entry.fd > 1023
        assert value(alias, "SELECT CONNECTION_ID()") == number
        close(alias)
        server.kill(number)
        assert value(alias, "SELECT CONNECTION_ID()") != number
        close(alias)
        connections[alias].close_pool()
    finally:
        for one in blockers:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("retry", [0, 1.0])
def test_an_absent_server_is_waited_for_so_long_and_no_longer(server, retry):
    alias = server.alias(pool={"connect_retry": retry, "timeout": 20}, PORT="1")
    start = time.monotonic()
    with pytest.raises(OperationalError):
        value(alias, "SELECT 1")
    assert retry <= time.monotonic() - start < retry + 2


def test_a_refused_password_is_no_outage(server):
    alias = server.alias(pool={"connect_retry": 20, "timeout": 20}, USER="nobody_at_all", PASSWORD="x")
    start = time.monotonic()
    with pytest.raises(OperationalError, match="1045"):
        value(alias, "SELECT 1")
    assert time.monotonic() - start < 3


def test_read_only_after_a_failover(server):
    alias = server.alias(pool={"pool_size": 3})
    run(alias, "CREATE TABLE IF NOT EXISTS ro (a INT)")
    close(alias)
    old = set(fill(alias, 3))
    user = "pooltest_ro"
    server.ask(f"DROP USER IF EXISTS '{user}'@'%'")
    server.ask(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'x'")
    server.ask(f"GRANT SELECT, INSERT ON *.* TO '{user}'@'%'")
    mine = server.alias(pool={"pool_size": 3}, USER=user, PASSWORD="x")
    old = set(fill(mine, 3))
    try:
        server.ask("SET GLOBAL read_only = 1")
        with pytest.raises(OperationalError) as caught:
            run(mine, "INSERT INTO ro VALUES (1)")
        assert caught.value.args[0] == 1290
        close(mine)
        server.ask("SET GLOBAL read_only = 0")
        assert value(mine, "SELECT CONNECTION_ID()") not in old
        wait_for(lambda: not old & set(server.all_ids()))
    finally:
        server.ask("SET GLOBAL read_only = 0")
        close(mine)
        server.ask(f"DROP USER '{user}'@'%'")


NOT_READY = "SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = 1047, MESSAGE_TEXT = 'WSREP has not yet prepared node'"


def test_a_node_without_a_majority_empties_the_pool(server):
    alias = server.alias(pool={"pool_size": 3})
    old = set(fill(alias, 3))
    with pytest.raises(Error) as caught:
        run(alias, NOT_READY)
    assert caught.value.args[0] == 1047
    close(alias)
    assert value(alias, "SELECT CONNECTION_ID()") not in old
    wait_for(lambda: not old & set(server.all_ids()))
    close(alias)


def test_a_node_that_is_not_ready_is_waited_for(server):
    """Connecting gets 1047 until the node is in its cluster again; the borrower only waits."""
    alias = server.alias(pool={"connect_retry": 10, "timeout": 20}, options={"init_command": "CALL gate()"})
    server.ask("DROP TABLE IF EXISTS gate_shut", DATABASE)
    server.ask("CREATE TABLE gate_shut (a INT)", DATABASE)
    server.ask("INSERT INTO gate_shut VALUES (1)", DATABASE)
    server.ask("DROP PROCEDURE IF EXISTS gate", DATABASE)
    server.ask(
        "CREATE PROCEDURE gate() IF EXISTS (SELECT * FROM gate_shut) THEN " + NOT_READY + "; END IF", DATABASE
    )
    opener = threading.Timer(1, server.ask, ("DELETE FROM gate_shut", DATABASE))
    opener.start()
    start = time.monotonic()
    assert value(alias, "SELECT 1") == 1
    assert time.monotonic() - start > 0.9
    assert pool(alias).counters["connect_errors"] > 1
    opener.join()
    close(alias)
