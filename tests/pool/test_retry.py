"""djorm_pool.retry_atomic: a transaction that was cut off anywhere is run again, and leaves one row.

And djorm_pool.retry_read: so is a read.
"""

import contextlib
import socket
import threading
import time

import djorm_pool
import pytest
from django.db import Error, IntegrityError, OperationalError, connections, transaction
from django.db.transaction import TransactionManagementError
from helpers import DATABASE, close, in_thread, run, value, wait_for


@pytest.fixture
def alias(server):
    return prepared(server)


def prepared(server, **more):
    name = server.alias(**more)
    server.ask("DROP TABLE IF EXISTS kept", DATABASE)
    server.ask("CREATE TABLE kept (name VARCHAR(20) PRIMARY KEY, count INT DEFAULT 0)", DATABASE)
    return name


def kept(server):
    return server.ask("SELECT name FROM kept ORDER BY name", DATABASE)


def keep(alias, meet=lambda attempt: None, **more):
    """A retried function that writes one row, and what was tried. `meet`: between INSERT and COMMIT."""
    tried = []

    @djorm_pool.retry_atomic(using=alias, **more)
    def write():
        tried.append(None)
        run(alias, "INSERT INTO kept (name) VALUES ('mine')")
        meet(len(tried))

    return write, tried


def test_a_connection_that_dies_before_commit(net_server):
    alias = prepared(net_server)

    def kill(attempt):
        if attempt == 1:
            net_server.kill(value(alias, net_server.id_sql))

    write, tried = keep(alias, kill)
    write()
    assert (len(tried), kept(net_server)) == (2, type(kept(net_server))([("mine",)]))
    close(alias)


def test_without_it_the_same_is_an_error(server, alias):
    with pytest.raises(OperationalError), transaction.atomic(using=alias):
        run(alias, "INSERT INTO kept (name) VALUES ('mine')")
        server.kill(value(alias, "SELECT CONNECTION_ID()"))
    assert not kept(server)


class Swallow:
    """A proxy: the first COMMIT reaches the server, its acknowledgement reaches nobody."""

    def __init__(self, host, port):
        self.target, self.swallowed, self.open = (host, int(port)), 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.open += [client, server]
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink, to_server):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                # MariaDB's library says COMMIT, MySQL's commit, with attributes before it
                commit = data[4:5] == b"\x03" and data.upper().endswith(b"COMMIT")
                if to_server and commit and not self.swallowed:
                    self.swallowed = 1
                    # nobody reads the answer for the client any more; the server carries the COMMIT out
                    source.shutdown(socket.SHUT_RDWR)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_WR if to_server else socket.SHUT_RDWR)

    def close(self):
        for one in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_an_acknowledgement_that_is_lost_is_not_a_second_row(server):
    server.create()
    proxy = Swallow(server.where["host"], server.where["port"])
    try:
        # The proxy must see the word, and MySQL's library encrypts where nobody says no.
        plain = {"ssl_mode": "DISABLED"}
        alias = prepared(server, HOST="127.0.0.1", PORT=str(proxy.port), options=plain)
        write, tried = keep(alias)
        with pytest.raises(IntegrityError):  # the key says that the row is there: the caller's cue to read it
            write()
        assert proxy.swallowed == 1
        assert len(tried) == 2
        assert kept(server) == (("mine",),)
        close(alias)
        connections[alias].close_pool()
    finally:
        proxy.close()


def test_a_deadlock(server, alias):
    server.ask("INSERT INTO kept (name) VALUES ('a'), ('b')", DATABASE)
    both, tried = threading.Barrier(2), {"a": 0, "b": 0}

    @djorm_pool.retry_atomic(using=alias)
    def swap(first, second):
        tried[first] += 1
        run(alias, "UPDATE kept SET count = count + 1 WHERE name = %s", [first])
        if tried[first] == 1:
            both.wait(10)
        run(alias, "UPDATE kept SET count = count + 1 WHERE name = %s", [second])

    def one(first, second):
        try:
            swap(first, second)
        finally:
            connections[alias].close()

    threads = [threading.Thread(target=one, args=pair) for pair in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(tried.values()) == [1, 2]
    assert server.ask("SELECT count FROM kept", DATABASE) == ((2,), (2,))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1020, "Record has changed since last read in table"),
        (1021, "Disk full (/tmp/#sql1); waiting for someone to free some space..."),
        (1114, "The table 'kept' is full"),
        (1047, "WSREP has not yet prepared node for application use"),
        (1180, "Got error 6 during COMMIT"),
        (1205, "Lock wait timeout exceeded; try restarting transaction"),
        (1213, "Deadlock found when trying to get lock"),
        (1290, "The MySQL server is running with the --super-read-only option"),
        (1836, "Running in read-only mode"),
        (4094, "Blocked while function 'group_replication_set_as_primary()' is executing"),
        (3100, "Error on observer while running replication hook 'before_commit'."),
        (3101, "Plugin instructed the server to rollback the current transaction."),
    ],
)
def test_what_may_be_otherwise_a_moment_later(server, alias, code, text):
    signal = f'SIGNAL SQLSTATE "HY000" SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = "{text}"'
    write, tried = keep(alias, lambda attempt: attempt == 1 and run(alias, signal))
    write()
    assert (len(tried), kept(server)) == (2, (("mine",),))
    close(alias)


def test_read_only_is_left_for_another_connection(server):
    """After 1290 the node is no writer any more: its connections are closed, not only this attempt's."""
    alias = prepared(server)
    numbers = []

    @djorm_pool.retry_atomic(using=alias)
    def write():
        numbers.append(value(alias, "SELECT CONNECTION_ID()"))
        if len(numbers) == 1:
            run(
                alias,
                "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290, MESSAGE_TEXT = 'the --read-only option'",
            )

    write()
    assert len(set(numbers)) == 2
    close(alias)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [("INSERT INTO kept (name) VALUES ('mine')", IntegrityError), ("SELECT nonsense", Error)],
)
def test_what_would_fail_again_is_not_repeated(alias, statement, kind):
    write, tried = keep(alias, lambda attempt: run(alias, statement))
    with pytest.raises(kind):
        write()
    assert len(tried) == 1


def test_another_exception_is_the_callers(server, alias):
    def stop(attempt):
        raise KeyError("mine")

    write, tried = keep(alias, stop)
    with pytest.raises(KeyError):
        write()
    assert (len(tried), kept(server)) == (1, ())


def test_inside_another_block_it_is_refused(server, alias):
    write, tried = keep(alias)
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic(using=alias):
        write()
    assert (tried, kept(server)) == ([], ())


def test_without_autocommit_it_is_refused(server, alias):
    write, tried = keep(alias)
    transaction.set_autocommit(False, using=alias)
    try:
        with pytest.raises(TransactionManagementError, match="autocommit"):
            write()
    finally:
        transaction.rollback(using=alias)
        transaction.set_autocommit(True, using=alias)
    assert (tried, kept(server)) == ([], ())


def test_in_a_testcase_it_runs_once(server, alias):
    """Django's TestCase wraps each test in a block, which ends with the first error."""
    block = transaction.atomic(using=alias)
    block._from_testcase = True
    signal = "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
    write, tried = keep(alias, lambda attempt: run(alias, signal))
    with contextlib.suppress(OperationalError), block:
        write()
    assert len(tried) == 1


def test_it_gives_up_at_its_deadline(server):
    alias = server.alias(pool={"connect_retry": 0.2}, PORT="1")
    write, tried = keep(alias, within=1.5)
    start = time.monotonic()
    with pytest.raises(OperationalError):
        write()
    assert 1 < time.monotonic() - start < 3
    assert tried == []  # it never got as far


def test_a_full_pool_is_not_asked_again(server):
    """The pool has waited for as long as it may: another round would keep a busy site busy."""
    alias = prepared(server, pool={"pool_size": 1, "timeout": 0.3})
    value(alias, "SELECT 1")
    held = connections[alias]
    assert held.connection is not None
    write, tried = keep(alias)
    start = time.monotonic()
    with pytest.raises(OperationalError, match="no connection"):
        in_thread(write)
    assert time.monotonic() - start < 1.5
    assert tried == []
    close(alias)


def test_a_restart_of_the_server_between_two_statements(server):
    alias = prepared(server, pool={"connect_retry": 30, "timeout": 40})
    write, tried = keep(alias, lambda attempt: attempt == 1 and server.restart(), within=60)
    write()
    assert (len(tried), kept(server)) == (2, (("mine",),))
    close(alias)


def test_a_hook_runs_once_for_what_was_committed(server, alias):
    done = []

    def meet(attempt):
        transaction.on_commit(lambda: done.append(attempt), using=alias)
        if attempt == 1:
            server.kill(value(alias, "SELECT CONNECTION_ID()"))

    write, _ = keep(alias, meet)
    write()
    assert done == [2]
    wait_for(lambda: kept(server) == (("mine",),))
    close(alias)


# ---- retry_read ------------------------------------------------------------------------------------


def look(alias, meet=lambda attempt: None, **more):
    """A repeated function that counts the rows, and what was tried. `meet`: before it counts."""
    tried = []

    @djorm_pool.retry_read(using=alias, **more)
    def count():
        tried.append(connections[alias].in_atomic_block)
        meet(len(tried))
        return value(alias, "SELECT COUNT(*) FROM kept")

    return count, tried


def test_a_read_whose_connection_dies(net_server):
    alias = prepared(net_server)

    def kill(attempt):
        if attempt == 1:
            net_server.kill(value(alias, net_server.id_sql))

    count, tried = look(alias, kill)
    assert count() == 0
    assert tried == [False, False]  # in no transaction: it costs no statement more
    close(alias)


def test_a_read_on_a_node_that_left_its_cluster(server, alias):
    signal = "SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = 1047, MESSAGE_TEXT = 'WSREP is not ready'"
    numbers = []

    def meet(attempt):
        numbers.append(value(alias, "SELECT CONNECTION_ID()"))
        if attempt == 1:
            run(alias, signal)

    count, _ = look(alias, meet)
    assert count() == 0
    assert len(set(numbers)) == 2
    close(alias)


@pytest.mark.parametrize("begun", ["atomic", "autocommit", "START TRANSACTION", "SET @mine = 1", "setting"])
def test_a_read_that_does_not_stand_alone_runs_once(server, begun):
    """What came before on this connection is not there on another one."""
    alias = prepared(server, **({"AUTOCOMMIT": False} if begun == "setting" else {}))
    count, tried = look(alias, lambda attempt: server.kill(value(alias, "SELECT CONNECTION_ID()")))
    block = contextlib.nullcontext()
    if begun == "atomic":
        block = transaction.atomic(using=alias)
    elif begun == "autocommit":
        transaction.set_autocommit(False, using=alias)
    elif begun != "setting":
        run(alias, begun)
    with pytest.raises(OperationalError), block:
        count()
    assert len(tried) == 1
    close(alias)


def test_a_read_that_would_fail_again_is_not_repeated(alias):
    count, tried = look(alias, lambda attempt: run(alias, "SELECT nonsense"))
    with pytest.raises(Error):
        count()
    assert len(tried) == 1


def test_a_read_that_found_the_pool_full_is_not_asked_again(server):
    alias = prepared(server, pool={"pool_size": 1, "timeout": 0.3})
    value(alias, "SELECT 1")
    assert connections[alias].connection is not None
    count, tried = look(alias)
    start = time.monotonic()
    with pytest.raises(OperationalError, match="no connection"):
        in_thread(count)
    assert time.monotonic() - start < 1.5
    assert len(tried) == 1
    close(alias)


def test_a_read_gives_up_at_its_deadline(server):
    alias = server.alias(pool={"connect_retry": 0.2}, PORT="1")
    count, tried = look(alias, within=1.5)
    start = time.monotonic()
    with pytest.raises(OperationalError):
        count()
    assert 1 < time.monotonic() - start < 3
    assert len(tried) > 1


def test_sqlite_locked(sqlite):
    alias = sqlite.alias(options={"timeout": 0.05})
    run(alias, "CREATE TABLE kept (name VARCHAR(20) PRIMARY KEY)")
    close(alias)
    locked, free = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic(using=alias):
            run(alias, "INSERT INTO kept VALUES ('other')")
            locked.set()
            free.wait(10)
        connections[alias].close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(10)
    tried = []

    @djorm_pool.retry_atomic(using=alias)
    def write():
        tried.append(None)
        if len(tried) == 3:
            free.set()
            thread.join(10)
        run(alias, "INSERT INTO kept VALUES ('mine')")

    write()
    assert len(tried) == 3
    assert value(alias, "SELECT COUNT(*) FROM kept") == 2
