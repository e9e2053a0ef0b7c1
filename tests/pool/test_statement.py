"""T23 and T24: release between statements, and the pins that make it safe."""

import threading
from unittest import mock

import pytest
from django.db import OperationalError, connections, transaction
from helpers import DATABASE, close, in_thread, pool, run, value

STATEMENT = {"release": "statement", "pool_size": 2, "timeout": 10}


@pytest.fixture
def alias(server):
    alias = server.alias(pool=STATEMENT)
    run(alias, "DROP TABLE IF EXISTS t23")
    run(alias, "CREATE TABLE t23 (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
    run(alias, "INSERT INTO t23 (a) VALUES (1), (2), (3)")
    close(alias)
    return alias


PAIRS = {
    "LAST_INSERT_ID": (["INSERT INTO t23 (a) VALUES (9)"], "SELECT LAST_INSERT_ID() > 3", 1),
    "ROW_COUNT": (["UPDATE t23 SET a = a + 100"], "SELECT ROW_COUNT()", 3),
    "FOUND_ROWS": (["SELECT SQL_CALC_FOUND_ROWS id FROM t23 LIMIT 1"], "SELECT FOUND_ROWS()", 3),
    "SHOW WARNINGS": (["SELECT CAST('x' AS SIGNED)"], "SHOW COUNT(*) WARNINGS", 1),
    "user variable": (["SET @v = 5"], "SELECT @v", 5),
    "temporary table": (
        ["CREATE TEMPORARY TABLE t23t (a INT)", "INSERT INTO t23t VALUES (6)"],
        "SELECT a FROM t23t",
        6,
    ),
    "GET_LOCK": (["SELECT GET_LOCK('t23', 0)"], "SELECT IS_USED_LOCK('t23') = CONNECTION_ID()", 1),
    "LOCK TABLES": (["LOCK TABLES t23 WRITE"], "SELECT COUNT(*) FROM t23", 3),
    "raw BEGIN": (["BEGIN", "DELETE FROM t23"], "SELECT COUNT(*) FROM t23", 0),
    "sql_mode": (["SET sql_mode = 'ANSI'"], "SELECT @@sql_mode LIKE '%%ANSI%%'", 1),
    "PREPARE": (["PREPARE p FROM 'SELECT 8'"], "EXECUTE p", 8),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_t23_what_the_next_statement_relies_on(alias, pair):
    """Two statements in autocommit stay on one connection, with others eager for it in between."""
    before, question, answer = PAIRS[pair]
    stop = threading.Event()

    def eager():
        while not stop.is_set():
            value(alias, "SELECT 1")

    threads = [threading.Thread(target=eager) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        numbers = set()
        for statement in before:
            with connections[alias].cursor() as cursor:
                cursor.execute(statement)
                if cursor.description:
                    cursor.fetchall()
                numbers.add(
                    cursor.cursor.connection.thread_id() if hasattr(cursor.cursor, "connection") else 0
                )
        found = value(alias, question)
        assert int(found) == answer
        assert connections[alias]._djorm_lease is not None, "it stays pinned until the request's end"
    finally:
        close(alias)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert pool(alias).checkedout() == 0


def test_t23_released_between_statements(alias):
    wrapper = connections[alias]
    for statement in ("SELECT 1", "SELECT a FROM t23", "SHOW TABLES"):
        run(alias, statement)
        assert wrapper._djorm_lease is None and wrapper.connection is None
    with transaction.atomic(using=alias):
        run(alias, "INSERT INTO t23 (a) VALUES (1)")
        assert wrapper._djorm_lease is not None
    assert wrapper._djorm_lease is None
    with wrapper.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert wrapper._djorm_lease is not None
    assert wrapper._djorm_lease is None
    assert pool(alias).counters["created"] == 1


def test_t23_a_statement_costs_one_round_trip(server, alias):
    def questions():
        return int(server.ask("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])

    before = questions()
    for number in range(20):
        assert value(alias, "SELECT %s", [number]) == number
    assert pool(alias).checkedout() == 0
    assert 20 <= questions() - before <= 24  # SHOW STATUS and its connection are counted too


def test_t23_the_orm_releases_after_a_write(alias):
    from django.db import models

    class Thing(models.Model):
        a = models.IntegerField()

        class Meta:
            app_label = "djorm_pool"
            db_table = "t23"
            managed = False

    try:
        thing = Thing(a=5)
        thing.save(using=alias)
        assert thing.pk and connections[alias]._djorm_lease is None
        Thing.objects.using(alias).filter(a=5).update(a=6)
        assert connections[alias]._djorm_lease is None
        assert list(Thing.objects.using(alias).filter(a=6).iterator())
        assert connections[alias]._djorm_lease is None
        fired = []
        transaction.on_commit(lambda: fired.append(1), using=alias)
        assert fired == [1] and connections[alias]._djorm_lease is None
        with transaction.atomic(using=alias):
            transaction.on_commit(lambda: fired.append(list(Thing.objects.using(alias).all())), using=alias)
        assert len(fired) == 2 and connections[alias]._djorm_lease is None
    finally:
        from django.apps import apps

        apps.all_models["djorm_pool"].pop("thing", None)


def test_t23_asking_after_others_had_the_connection_is_refused(alias):
    """A plain SELECT is not pinned. FOUND_ROWS() after it is right or refused: never somebody else's."""
    pool(alias)
    run(alias, "SELECT id FROM t23 LIMIT 2")
    assert value(alias, "SELECT FOUND_ROWS()") == 2, "nobody came in between"
    close(alias)
    run(alias, "SELECT id FROM t23 LIMIT 2")
    in_thread(value, alias, "SELECT id FROM t23 LIMIT 1")
    with pytest.raises(OperationalError, match="asks about the one before it"):
        run(alias, "SELECT FOUND_ROWS()")
    close(alias)
    assert value(alias, "SELECT FOUND_ROWS()") is not None, "a new request may ask what it likes"


def test_t23_others_may_have_had_it_before_the_giver_looks_back(alias):
    for _ in range(2):
        run(alias, "SELECT id FROM t23 LIMIT 2")
    fair = pool(alias)
    park = fair.park

    def taken_at_once(lease):
        park(lease)
        with mock.patch.object(fair, "park", park):
            in_thread(value, alias, "SELECT id FROM t23 LIMIT 1")

    with mock.patch.object(fair, "park", taken_at_once):
        run(alias, "SELECT id FROM t23 LIMIT 2")
    with pytest.raises(OperationalError, match="asks about the one before it"):
        run(alias, "SELECT FOUND_ROWS()")


def test_t23_open_transaction_and_manual_mode_hold(alias):
    wrapper = connections[alias]
    wrapper.set_autocommit(False)
    run(alias, "INSERT INTO t23 (a) VALUES (1)")
    assert wrapper._djorm_lease is not None
    wrapper.rollback()
    wrapper.set_autocommit(True)
    assert wrapper._djorm_lease is None
    assert value(alias, "SELECT COUNT(*) FROM t23") == 3


def test_t23_five_connections_serve_many_threads(server):
    alias = server.alias(pool={"release": "statement", "pool_size": 5, "timeout": 10})
    errors = []

    def work(number):
        import time

        from djorm_pool import release

        try:
            for n in range(20):
                release.request_started(environ={})
                assert value(alias, "SELECT %s", [number * 100 + n]) == number * 100 + n
                time.sleep(0.002)
                close(alias)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(server.connected(DATABASE)) <= 5


def test_t24_a_late_cursor_close_touches_nobody(server):
    alias = server.alias(pool={"pool_size": 1, "timeout": 10})
    old = connections[alias].cursor()
    old.execute("SELECT 1")
    rows = old.fetchall()
    close(alias)
    result = []

    def other():
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1; SELECT 2; SELECT 3")
            result.append(cursor.fetchall())
            import time

            ready.set()
            closed.wait(10)
            time.sleep(0.01)
            while cursor.nextset():
                result.append(cursor.fetchall())
        close(alias)

    ready, closed = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(10)
    old.close()
    closed.set()
    thread.join(10)
    assert rows == ((1,),)
    assert result == [((1,),), ((2,),), ((3,),)]


def test_t24_an_old_cursor_cannot_execute(any_server):
    alias = any_server.alias(pool={"pool_size": 1})
    old = connections[alias].cursor()
    old.execute("SELECT 1")
    old.fetchall()
    close(alias)
    with pytest.raises(Exception, match=r"(?i)closed"):
        old.execute("SELECT 1")
