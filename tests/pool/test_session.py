"""T7 to T13, T19, T21, T22, T36: what a borrower did is gone, and what broke is not lent again."""

import time
from unittest import mock

import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.signals import connection_created
from helpers import close, in_thread, pool, run, value, wait_for

VARIABLES = (
    "@@sql_mode, @@foreign_key_checks, @@unique_checks, @@time_zone, @@character_set_client, "
    "@@character_set_results, @@character_set_connection, @@collation_connection, @@lock_wait_timeout, "
    "@@autocommit, @@max_execution_time_, "
    "@@group_concat_max_len, @@sql_safe_updates, @@innodb_lock_wait_timeout, @@sql_auto_is_null, @@isolation_"
)


def variables(server):
    names = VARIABLES.split(", ")
    old = server.name == "mariadb"
    swap = {
        "@@max_execution_time_": "@@max_statement_time" if old else "@@max_execution_time",
        "@@isolation_": "@@transaction_isolation",
    }
    return ", ".join(swap.get(n, n) for n in names)


DIRT = {
    "user variable": ("SET @leak = 7", "SELECT @leak"),
    "sql_mode": ("SET sql_mode = ''", "SELECT @@sql_mode"),
    "foreign keys": ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks"),
    "time zone": ("SET time_zone = '+05:00'", "SELECT @@time_zone"),
    "names": ("SET NAMES latin1", "SELECT @@character_set_client, @@collation_connection"),
    "isolation": ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT @@transaction_isolation"),
    "database": ("USE information_schema", "SELECT DATABASE()"),
    "autocommit": ("SET autocommit = 0", "SELECT @@autocommit"),
    "lock": ("SELECT GET_LOCK('pool_leak', 0)", "SELECT IS_USED_LOCK('pool_leak')"),
    "wait_timeout": ("SET wait_timeout = 5", "SELECT @@wait_timeout"),
    "select limit": ("SET sql_select_limit = 1", "SELECT @@sql_select_limit"),
    "comment": ("/* hello */ SET @leak = 8", "SELECT @leak"),
    "assignment in a query": ("SELECT @leak := 9", "SELECT @leak"),
    "two in one": ("SELECT 1; SET @leak = 10", "SELECT @leak"),
    "executable comment": ("/*!50000 SET @leak = 11 */", "SELECT @leak"),
}


@pytest.mark.parametrize("dirt", DIRT)
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "manual"])
def test_t7_session_state_is_gone(server, dirt, autocommit):
    statement, question = DIRT[dirt]
    alias = server.alias(pool={"pool_size": 1}, AUTOCOMMIT=autocommit)
    clean = run(alias, question)
    number = value(alias, "SELECT CONNECTION_ID()")
    close(alias)
    with connections[alias].cursor() as cursor:
        cursor.execute(statement)
        while cursor.nextset():
            pass
    close(alias)
    assert run(alias, question) == clean
    assert value(alias, "SELECT CONNECTION_ID()") == number, "reset, not reconnected"


@pytest.mark.parametrize("derived", [True, False], ids=["derived", "foreign"])
def test_t7_a_backend_with_cursors_of_its_own(server, derived):
    """A subclass of Django's backend may bring any cursor: what is sent through it is seen all the same."""
    from django.db.backends.mysql.base import CursorWrapper

    class Derived(CursorWrapper):
        pass

    class Foreign:
        def __init__(self, cursor):
            self.execute, self.close = cursor.execute, cursor.close
            self.fetchone, self.fetchall = cursor.fetchone, cursor.fetchall

    alias = server.alias(pool={"pool_size": 1})
    stock = type(connections[alias])

    class Wrapper(stock):
        def create_cursor(self, name=None):
            cursor = self.connection.cursor()
            return Derived(cursor) if derived else Foreign(cursor)

    wrapper = Wrapper(connections[alias].settings_dict, alias)
    for sql, found in (("SET @leak = 1", ()), ("SELECT @leak", ((None,),)), ("SELECT 1", ((1,),))):
        with wrapper.cursor() as cursor:
            cursor.execute(sql)
            assert tuple(cursor.fetchall()) == found
        wrapper.close()
    assert wrapper.djorm_pool.counters["resets"] == 2  # a user variable that is read makes dirty too
    assert wrapper.djorm_pool.counters["created"] == 1


def test_t7_temporary_tables_and_table_locks(server):
    alias = server.alias(pool={"pool_size": 1})
    run(alias, "CREATE TABLE IF NOT EXISTS t7 (a INT)")
    run(alias, "CREATE TEMPORARY TABLE t7_tmp (a INT)")
    close(alias)
    with pytest.raises(Exception, match="t7_tmp"):
        run(alias, "SELECT * FROM t7_tmp")
    close(alias)
    run(alias, "LOCK TABLES t7 WRITE")
    close(alias)
    pool(alias).close_idle  # noqa: B018 (kept open on purpose)
    server.ask("SET SESSION lock_wait_timeout = 1")
    other = server.admin(pool_database(alias))
    other.query("SET SESSION lock_wait_timeout = 1")
    other.query("INSERT INTO t7 VALUES (1)")
    other.close()


def pool_database(alias):
    return connections[alias].settings_dict["NAME"]


def test_t7_prepared_statements_and_handlers(server):
    alias = server.alias(pool={"pool_size": 1})
    run(alias, "PREPARE leak FROM 'SELECT 1'")
    close(alias)
    with pytest.raises(Exception, match="leak"):
        run(alias, "EXECUTE leak")


def test_t7_modes(server):
    off = server.alias(pool={"pool_size": 1, "reset": "off"})
    run(off, "SET @leak = 1")
    close(off)
    assert value(off, "SELECT @leak") == 1
    always = server.alias(pool={"pool_size": 1, "reset": "always"})
    raw = connections[always]
    raw.ensure_connection()
    raw.connection.query("SET @leak = 1")  # past every eye of ours
    close(always)
    assert value(always, "SELECT @leak") is None


def test_t7_clean_use_costs_no_reset(server):
    alias = server.alias(pool={"pool_size": 1})
    run(alias, "CREATE TABLE IF NOT EXISTS t7 (a INT)")
    for _ in range(5):
        run(alias, "SELECT 1")
        with transaction.atomic(using=alias):
            run(alias, "INSERT INTO t7 VALUES (1)")
            run(alias, "DELETE FROM t7")
        close(alias)
    counters = pool(alias).counters
    assert (counters["created"], counters["resets"], counters["rollbacks"], counters["pings"]) == (1, 0, 0, 0)


def test_t8_reset_replays_exactly_what_connecting_did(server):
    collation = "utf8mb4_unicode_ci"
    alias = server.alias(
        pool={"pool_size": 1},
        options={
            "init_command": "SET SESSION time_zone = '+03:00', lock_wait_timeout = 5",
            "sql_mode": "TRADITIONAL",
            "charset": "utf8mb4",
            "collation": collation,
            "isolation_level": "repeatable read",
        },
    )
    question = f"SELECT {variables(server)}, DATABASE(), USER()"
    fresh = run(alias, question)
    number = value(alias, "SELECT CONNECTION_ID()")
    close(alias)
    run(alias, "SET sql_mode = '', time_zone = '+01:00', lock_wait_timeout = 99, foreign_key_checks = 0")
    run(alias, "SET NAMES latin1")
    run(alias, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    run(alias, "SET autocommit = 0, group_concat_max_len = 4444")
    close(alias)
    assert run(alias, question) == fresh
    assert value(alias, "SELECT CONNECTION_ID()") == number
    assert collation in fresh[0] and "+03:00" in fresh[0] and 5 in fresh[0]
    # text survives in the right character set
    assert value(alias, "SELECT %s", ["grün 🦆"]) == "grün 🦆"


@pytest.mark.parametrize("error", [(1045, "Access denied"), (1820, "You must reset your password")])
def test_t9_reset_refused(server, error):
    import MySQLdb

    alias = server.alias(pool={"pool_size": 1})
    number = value(alias, "SELECT CONNECTION_ID()")
    run(alias, "SET @leak = 1")
    with mock.patch.object(pool(alias).driver, "reset", side_effect=MySQLdb.OperationalError(*error)):
        close(alias)
    assert pool(alias).checkedout() == 0 and pool(alias).checkedin() == 0
    wait_for(lambda: number not in server.all_ids())
    assert value(alias, "SELECT CONNECTION_ID()") != number
    assert value(alias, "SELECT @leak") is None


def test_t9_credentials_of_a_file_mean_discard(server, tmp_path):
    file = tmp_path / "my.cnf"
    file.write_text(f"[client]\nuser={server.where['user']}\npassword={server.where.get('password', '')}\n")
    alias = server.alias(
        pool={"pool_size": 1}, options={"read_default_file": str(file)}, USER="", PASSWORD=""
    )
    number = value(alias, "SELECT CONNECTION_ID()")
    run(alias, "SET @leak = 1")
    close(alias)
    assert value(alias, "SELECT @leak") is None
    assert value(alias, "SELECT CONNECTION_ID()") != number


def test_t9_the_password_plugins_that_exist(server):
    """A real account with a password: COM_CHANGE_USER authenticates again."""
    server.create()
    user, secret = "pooltest_t9", "geheim-9"
    server.ask(f"DROP USER IF EXISTS '{user}'@'%'")
    server.ask(f"CREATE USER '{user}'@'%' IDENTIFIED BY '{secret}'")
    server.ask(f"GRANT ALL ON *.* TO '{user}'@'%'")
    try:
        alias = server.alias(pool={"pool_size": 1}, USER=user, PASSWORD=secret)
        number = value(alias, "SELECT CONNECTION_ID()")
        run(alias, "SET @leak = 1")
        close(alias)
        assert value(alias, "SELECT @leak") is None
        assert value(alias, "SELECT CONNECTION_ID()") == number
    finally:
        close(alias)
        server.ask(f"DROP USER '{user}'@'%'")


def test_t10_unread_rows(server):
    from MySQLdb.cursors import SSCursor

    alias = server.alias(pool={"pool_size": 1}, options={"cursorclass": SSCursor})
    number = value(alias, "SELECT CONNECTION_ID()")
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
    cursor.fetchone()
    close(alias)
    assert pool(alias).checkedout() == 0
    assert value(alias, "SELECT CONNECTION_ID()") != number
    assert pool(alias).checkedout() == 1
    cursor.close()


def test_t10_unread_result_sets(server):
    alias = server.alias(pool={"pool_size": 1})
    cursor = connections[alias].cursor()
    cursor.execute("SELECT 1; SELECT 2")
    cursor.fetchall()
    close(alias)
    assert value(alias, "SELECT 42") == 42
    assert pool(alias).checkedout() == 1


def test_t11_close_inside_atomic(server):
    alias = server.alias(pool={"pool_size": 1})
    run(alias, "CREATE TABLE IF NOT EXISTS t11 (a INT)")
    run(alias, "DELETE FROM t11")
    ready = []

    def other():
        with transaction.atomic(using=alias):
            run(alias, "INSERT INTO t11 VALUES (1)")
            ready.append(value(alias, "SELECT CONNECTION_ID()"))
            end = time.monotonic() + 5
            while "left" not in ready and time.monotonic() < end:
                time.sleep(0.01)
        close(alias)

    import threading

    thread = threading.Thread(target=other)
    with transaction.atomic(using=alias):
        number = value(alias, "SELECT CONNECTION_ID()")
        close(alias)
        thread.start()
        wait_for(lambda: ready)
        from django.db import Error

        connections[alias].set_rollback(False)  # even then: never on what is somebody else's by now
        with pytest.raises(Error):
            run(alias, "SELECT 1")
    ready.append("left")
    thread.join(10)
    assert ready[0] == number, "the very connection was lent on"
    assert value(alias, "SELECT COUNT(*) FROM t11") == 1, "the first thread's exit rolled the other one back"


@pytest.mark.parametrize(
    "begin", ["BEGIN", "START TRANSACTION", "/* x */ begin work", "SET autocommit=0", "XA START 'x'"]
)
@pytest.mark.parametrize("reset", ["auto", "off"])
def test_t12_raw_begin_is_rolled_back(server, begin, reset):
    alias = server.alias(pool={"pool_size": 1, "reset": reset})
    run(alias, "CREATE TABLE IF NOT EXISTS t12 (a INT)")
    run(alias, "DELETE FROM t12")
    close(alias)
    run(alias, begin)
    run(alias, "INSERT INTO t12 VALUES (1)")
    close(alias)
    assert value(alias, "SELECT COUNT(*) FROM t12") == 0
    run(alias, "INSERT INTO t12 VALUES (2)")
    close(alias)
    assert server.ask("SELECT a FROM t12", pool_database(alias)) in [((2,),), [(2,)]]


def test_t12_procedure_leaves_a_transaction_open(server):
    alias = server.alias(pool={"pool_size": 1})
    run(alias, "CREATE TABLE IF NOT EXISTS t12 (a INT)")
    run(alias, "DELETE FROM t12")
    run(alias, "DROP PROCEDURE IF EXISTS t12_begin")
    run(alias, "CREATE PROCEDURE t12_begin() BEGIN START TRANSACTION; INSERT INTO t12 VALUES (1); END")
    close(alias)
    for call in ("raw", "callproc"):
        with connections[alias].cursor() as cursor:
            if call == "raw":
                cursor.execute("CALL t12_begin()")
            else:
                cursor.callproc("t12_begin")
        close(alias)
        assert value(alias, "SELECT COUNT(*) FROM t12") == 0
        close(alias)


def test_t12_manual_transaction_on_any_database(any_server):
    alias = any_server.alias(pool={"pool_size": 1})
    run(alias, "DROP TABLE IF EXISTS t12m")
    run(alias, "CREATE TABLE t12m (a INT)")
    connections[alias].set_autocommit(False)
    run(alias, "INSERT INTO t12m VALUES (1)")
    close(alias)
    assert value(alias, "SELECT COUNT(*) FROM t12m") == 0
    assert connections[alias].get_autocommit() is True


FATAL = [1927, 2006, 2013, 2014, 2045, 2055, 4031, 1053]


@pytest.mark.parametrize("code", [*FATAL, "InterfaceError"])
@pytest.mark.parametrize("where", ["execute", "commit"])
def test_t13_fatal_errors(server, code, where):
    import MySQLdb
    from django.db import Error

    alias = server.alias(pool={"pool_size": 1})
    number = value(alias, "SELECT CONNECTION_ID()")
    error = (
        MySQLdb.InterfaceError(0, "")
        if code == "InterfaceError"
        else MySQLdb.OperationalError(code, "injected")
    )
    wrapper = connections[alias]
    if where == "execute":
        with mock.patch("MySQLdb.cursors.Cursor.execute", side_effect=error), pytest.raises(Error):
            run(alias, "SELECT 1")
    else:
        stand_in = mock.Mock(wraps=wrapper.connection)
        stand_in.commit.side_effect = error
        real, wrapper.connection = wrapper.connection, stand_in
        with pytest.raises(Error):
            wrapper.commit()
        wrapper.connection = real
    close(alias)
    assert value(alias, "SELECT CONNECTION_ID()") != number
    assert pool(alias).checkedout() == 1


def test_t13_ordinary_errors_do_not_evict(server):
    from django.db import Error

    alias = server.alias(pool={"pool_size": 2})
    run(alias, "DROP TABLE IF EXISTS t13")
    run(alias, "CREATE TABLE t13 (a INT PRIMARY KEY)")
    run(alias, "INSERT INTO t13 VALUES (1), (2)")
    number = value(alias, "SELECT CONNECTION_ID()")
    for wrong in ("INSERT INTO t13 VALUES (1)", "SELEC 1", "SELECT * FROM nowhere_at_all", "SELECT nothing"):
        with pytest.raises(Error):
            run(alias, wrong)
        close(alias)
        assert value(alias, "SELECT CONNECTION_ID()") == number
    assert pool(alias).counters["discarded"] == 0


def test_t13_deadlock_does_not_evict(server):
    alias = server.alias(pool={"pool_size": 2})
    run(alias, "DROP TABLE IF EXISTS t13d")
    run(alias, "CREATE TABLE t13d (a INT PRIMARY KEY, b INT)")
    run(alias, "INSERT INTO t13d VALUES (1, 0), (2, 0)")
    close(alias)
    import threading

    barrier = threading.Barrier(2, timeout=10)
    caught = []

    def work(first, second):
        try:
            with transaction.atomic(using=alias):
                run(alias, f"UPDATE t13d SET b = 1 WHERE a = {first}")
                barrier.wait()
                run(alias, f"UPDATE t13d SET b = 1 WHERE a = {second}")
        except OperationalError as error:
            caught.append(error.args[0])
        finally:
            close(alias)

    threads = [threading.Thread(target=work, args=a) for a in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert caught == [1213]
    assert pool(alias).counters["discarded"] == 0


def test_t19_a_check_opens_no_snapshot(server):
    alias = server.alias(
        pool={"pool_size": 1, "pessimistic": True},
        options={"isolation_level": "repeatable read"},
        AUTOCOMMIT=False,
    )
    run(alias, "CREATE TABLE IF NOT EXISTS t19 (a INT)")
    run(alias, "DELETE FROM t19")
    connections[alias].commit()
    close(alias)
    connections[alias].ensure_connection()  # the check has run
    server.ask("INSERT INTO t19 VALUES (1)", pool_database(alias))
    assert value(alias, "SELECT COUNT(*) FROM t19") == 1


def test_t21_receivers_of_connection_created(server):
    alias = server.alias(pool={"pool_size": 1})
    calls = []

    def receiver(connection, **kwargs):
        if connection.alias == alias:
            calls.append(1)
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION group_concat_max_len = 5555")

    connection_created.connect(receiver)
    try:
        for n in range(1, 4):
            assert value(alias, "SHOW VARIABLES LIKE 'group_concat_max_len'") == "group_concat_max_len"
            assert value(alias, "SELECT @@group_concat_max_len") == 5555, "asking does not make it dirty"
            close(alias)
            assert len(calls) == n
        assert pool(alias).counters["resets"] == 3 and pool(alias).counters["created"] == 1
    finally:
        connection_created.disconnect(receiver)
    assert value(alias, "SELECT @@group_concat_max_len") != 5555


def test_t21_a_receiver_that_fails_loses_no_place(server):
    alias = server.alias(pool={"pool_size": 1})

    def receiver(connection, **kwargs):
        raise ValueError("no")

    connection_created.connect(receiver)
    try:
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                run(alias, "SELECT 1")
    finally:
        connection_created.disconnect(receiver)
    assert pool(alias).checkedout() == 0
    assert value(alias, "SELECT 1") == 1


def test_t22_two_aliases_of_one_database(server):
    one = server.alias(pool={"pool_size": 1}, options={"isolation_level": "read committed"})
    two = server.alias(pool={"pool_size": 1}, options={"isolation_level": "serializable"})
    three = server.alias(pool={"pool_size": 1}, options={"init_command": "SET time_zone = '+02:00'"})
    for _ in range(3):
        assert value(one, "SELECT @@transaction_isolation") == "READ-COMMITTED"
        assert value(two, "SELECT @@transaction_isolation") == "SERIALIZABLE"
        assert value(three, "SELECT @@time_zone") == "+02:00"
        assert value(one, "SELECT @@time_zone") == "SYSTEM"
        for alias in (one, two, three):
            close(alias)
    assert len({id(pool(a)) for a in (one, two, three)}) == 3


def test_t22_equal_aliases_share_one_pool(server):
    one, two = server.alias(), server.alias()
    assert pool(one) is pool(two)
    from djorm_pool import status

    value(one, "SELECT 1")
    assert status()[one]["checked_out"] == status()[two]["checked_out"] == 1


def test_t36_a_killed_query_keeps_the_connection(server):
    alias = server.alias(pool={"pool_size": 1})
    number = value(alias, "SELECT CONNECTION_ID()")
    close(alias)

    def slow():
        try:
            run(alias, "SELECT COUNT(*) FROM (SELECT SLEEP(20)) AS s")
        except OperationalError as error:
            return error.args[0]
        finally:
            close(alias)

    import threading

    box = []
    thread = threading.Thread(target=lambda: box.append(slow()))
    thread.start()
    wait_for(
        lambda: any(
            "SLEEP" in str(r[0])
            for r in server.ask(f"SELECT info FROM information_schema.processlist WHERE id={number}")
        )
    )
    server.ask(f"KILL QUERY {number}")
    thread.join(10)
    assert value(alias, "SELECT CONNECTION_ID()") == number
    close(alias)
    if server.name == "mariadb":
        statement = "SET STATEMENT max_statement_time=0.05 FOR SELECT COUNT(*) FROM (SELECT SLEEP(2)) AS s"
    else:
        statement = (
            "SELECT /*+ MAX_EXECUTION_TIME(50) */ COUNT(*) FROM information_schema.columns a, "
            "information_schema.columns b, information_schema.columns c"
        )
    with pytest.raises(OperationalError):
        run(alias, statement)
    close(alias)
    assert value(alias, "SELECT CONNECTION_ID()") == number
    assert in_thread(lambda: pool(alias).counters["discarded"]) == 0


def test_postgresql_session_state_is_gone(postgresql):
    alias = postgresql.alias(pool={"pool_size": 1})
    number = value(alias, "SELECT pg_backend_pid()")
    before = value(alias, "SHOW work_mem")
    close(alias)
    run(alias, "SET work_mem = '7MB'")
    run(alias, "CREATE TEMPORARY TABLE leak (a int)")
    run(alias, "SELECT pg_advisory_lock(77)")
    close(alias)
    assert value(alias, "SHOW work_mem") == before
    assert value(alias, "SELECT COUNT(*) FROM pg_class WHERE relname = 'leak'") == 0
    assert value(alias, "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert value(alias, "SELECT pg_backend_pid()") == number
    assert value(alias, "SHOW TimeZone") == "UTC"
