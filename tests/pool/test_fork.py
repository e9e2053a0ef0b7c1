"""T5 and T6: a child neither uses nor harms its parent's connections."""

import gc
import os
import signal
import threading
import time

import pytest
from django.db import connections
from helpers import DATABASE, close, hammer, in_thread, pool, project, run, serve, value, wait_for


def fork(child):
    """Run `child` in a forked process; its answer (text)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writing, str(child()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    answer = b""
    end = time.monotonic() + 20
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)
    answer = os.read(reading, 10000)
    os.close(reading)
    assert status == 0, f"the child failed: {status}"
    return answer.decode()


def untouched():
    return "untouched"


def closes(alias):
    def child():
        connections[alias].close()
        connections[alias].close_pool()
        return "closed"

    return child


def collects():
    """Drop every reference that the child can reach: what the collector then closes must be harmless."""
    from djorm_pool import registry

    connections[ALIAS[0]].__dict__.clear()
    registry._pools.clear()
    gc.collect()
    return "collected"


ALIAS = []


@pytest.mark.parametrize("held", [True, False], ids=["held", "idle"])
@pytest.mark.parametrize("child", ["use", "untouched", "close", "collect"])
def test_t5_child_never_harms_the_parent(net_server, child, held):
    server = net_server
    alias = server.alias(pool={"pessimistic": False})
    ALIAS[:] = [alias]
    before = value(alias, server.id_sql)
    if not held:
        close(alias)
    if child == "use":
        mine = fork(lambda: value(alias, server.id_sql))
        assert int(mine) != before
    elif child == "untouched":
        fork(untouched)
    elif child == "close":
        fork(closes(alias))
    else:
        fork(collects)
    time.sleep(0.05)
    assert value(alias, server.id_sql) == before


EXIT_SCRIPT = """
import django, os, sys, time
django.setup()
from django.db import connection

def number():
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]

before = number()
if sys.argv[1] == "idle":
    connection.close()
if os.fork() == 0:
    sys.exit(0)  # through the interpreter's own shutdown
os.wait()
time.sleep(0.1)
print("same" if number() == before else "lost")
"""


@pytest.mark.parametrize("state", ["held", "idle"])
def test_t5_child_exits_through_the_interpreter(server, state):
    server.create()
    env = {"PROJECT_PESSIMISTIC": "false"}
    done = project({"default": server.settings()}, "-c", EXIT_SCRIPT, state, env=env)
    assert done.stdout.strip() == "same", done.stdout + done.stderr


def test_t5_gunicorn_preload(server):
    """The master touched the database before it forked; every answer must still be the asker's own."""
    server.create()
    with serve(server, "--preload", "-w", "3", env={"SHOP_EARLY": "open"}) as port:
        numbers = hammer(port, requests=600, threads=8)
    assert len(numbers) <= 3 * 3


def test_t32_graceful_stop_is_no_aborted_client(server):
    """Workers close their connections when they stop."""
    server.create()
    wait_for(lambda: not server.connected(DATABASE))  # what tests before this one left would be counted here
    aborted = int(server.ask("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")[0][1])
    with serve(server, "-w", "2") as port:
        hammer(port, requests=60, threads=4)
    wait_for(lambda: not server.connected(DATABASE))
    assert int(server.ask("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")[0][1]) == aborted


def test_t5_child_inside_atomic_cannot_go_on_in_autocommit(server):
    from django.db import Error, transaction

    alias = server.alias()
    with transaction.atomic(using=alias):
        before = value(alias, server.id_sql)

        def child():
            try:
                value(alias, server.id_sql)
            except Error as error:
                return type(error).__name__
            return "went on"

        assert fork(child) in ("ProgrammingError", "TransactionManagementError")
        assert value(alias, server.id_sql) == before


def test_t6_fork_while_threads_hold_locks(server):
    alias = server.alias(pool={"pool_size": 3, "pessimistic": False})
    stop = threading.Event()
    errors = []

    def busy():
        while not stop.is_set():
            try:
                value(alias, "SELECT SLEEP(0.002)")
                close(alias)
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(25):
            start = time.monotonic()
            assert fork(lambda: value(alias, "SELECT 41 + 1")) == "42"
            assert time.monotonic() - start < 2 + 3
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not errors
    assert in_thread(value, alias, "SELECT 1") == 1
    assert pool(alias).counters["discarded"] == 0


def test_t6_fork_with_the_pool_lock_held(server):
    alias = server.alias()
    run(alias, "SELECT 1")
    close(alias)
    held, go = threading.Event(), threading.Event()

    def holder():
        with pool(alias)._lock:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait(5)
    try:
        assert fork(lambda: value(alias, "SELECT 42")) == "42"
    finally:
        go.set()
        thread.join()
