"""One measurement in a process of its own: worker.py MODE WORK (JSON parameters on stdin), JSON on stdout."""

import contextlib
import json
import statistics
import sys
import threading
import time

MODES = {
    # name: (engine, CONN_MAX_AGE, health checks, options of the pool)
    "stock age 0": ("django.db.backends.mysql", 0, False, None),
    "stock None": ("django.db.backends.mysql", None, False, None),
    "stock None + health": ("django.db.backends.mysql", None, True, None),
    "django-db-connection-pool": ("dj_db_conn_pool.backends.mysql", 0, False, None),
    "ours auto": ("djorm_pool.backends.mysql", 0, False, {"pessimistic": "auto"}),
    "ours True": ("djorm_pool.backends.mysql", 0, False, {"pessimistic": True}),
    "ours statement": (
        "djorm_pool.backends.mysql",
        0,
        False,
        {"pessimistic": "auto", "release": "statement"},
    ),
}


def configure(mode, given):
    import django
    from django.conf import settings

    engine, max_age, health, options = MODES[mode]
    where = given["server"]
    database = {
        "ENGINE": engine,
        "NAME": given["database"],
        "USER": where["user"],
        "PASSWORD": where.get("password", ""),
        "HOST": where["host"],
        "PORT": str(where["port"]),
        "CONN_MAX_AGE": max_age,
        "CONN_HEALTH_CHECKS": health,
    }
    size, timeout = given.get("size", 20), given.get("timeout", 30)
    if mode.startswith("django-db"):
        database["POOL_OPTIONS"] = {
            "POOL_SIZE": (size + 1) // 2,
            "MAX_OVERFLOW": size // 2,
            "TIMEOUT": timeout,
        }
    elif options is not None:
        # recycle as the article's; the rest as it comes
        pool = {**options, "pool_size": size, "max_overflow": 0, "timeout": timeout}
        database["OPTIONS"] = {"pool": {**pool, **given.get("pool", {})}}
    settings.configure(DATABASES={"default": database}, USE_TZ=True, INSTALLED_APPS=[])
    django.setup()
    import django.core.handlers.wsgi  # every server has it, and its receiver of signals, in each mode


def request(think=0.0, sql="SELECT 1"):
    """One request; returns the seconds it waited for its connection."""
    from django.core.signals import request_finished, request_started
    from django.db import connection

    request_started.send(sender=None, environ={"PATH_INFO": "/"})
    try:
        start = time.perf_counter()
        connection.ensure_connection()
        waited = time.perf_counter() - start
        with connection.cursor() as cursor:
            cursor.execute(sql)
            cursor.fetchall()
        if think:
            time.sleep(think)
    finally:
        request_finished.send(sender=None)
    return waited


def one_thread(given):
    """Median and mean microseconds a request."""
    for _ in range(200):
        request()
    times = []
    for _ in range(given["requests"]):
        start = time.perf_counter()
        request()
        times.append(time.perf_counter() - start)
    return {"p50_us": statistics.median(times) * 1e6, "mean_us": statistics.fmean(times) * 1e6}


def many_threads(given):
    """Requests a second, quantiles of the request time, the wait for a connection, errors."""
    from django.db import Error, connections

    connections["default"]  # a server has imported its backend before it serves; no connection is opened
    count, each, think = given["threads"], given["each"], given.get("think", 0.0)
    sql = given.get("sql", "SELECT 1")
    times, waits, errors, lock = [], [], [0], threading.Lock()
    begin = threading.Barrier(count + 1)

    def work():
        mine, waited, failed = [], [], 0
        begin.wait()
        for _ in range(each):
            start = time.perf_counter()
            try:
                waited.append(request(think, sql))
            except Exception as error:
                if not isinstance(error, Error) and "sqlalchemy" not in type(error).__module__:
                    raise
                failed += 1
            mine.append(time.perf_counter() - start - think)
        with lock:
            times.extend(mine)
            waits.extend(waited)
            errors[0] += failed

    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    peak, stop = [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(given, peak, stop), daemon=True)
    watcher.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join(given.get("limit", 120))
    took = time.perf_counter() - start
    stop.set()
    watcher.join()
    times.sort()
    waits.sort()
    return {
        "wait_p50_ms": waits[len(waits) // 2] * 1e3,
        "wait_max_ms": waits[-1] * 1e3,
        "rps": len(times) / took,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
        "max_ms": times[-1] * 1e3,
        "errors": errors[0],
        "peak": peak[0],
    }


def watch(given, peak, stop):
    """The server's own word: connections on our database, sampled."""
    import MySQLdb

    where = given["server_direct"]
    with contextlib.closing(
        MySQLdb.connect(
            host=where["host"],
            port=int(where["port"]),
            user=where["user"],
            password=where.get("password", ""),
        )
    ) as connection:
        connection.autocommit(True)
        cursor = connection.cursor()
        while not stop.wait(0.05):
            cursor.execute(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE db = %s", [given["database"]]
            )
            peak[0] = max(peak[0], cursor.fetchone()[0])


def checkout(given):
    """Checkout and check-in alone, in microseconds: our pool and SQLAlchemy's QueuePool, on one dummy."""
    from djorm_pool.conf import Options
    from djorm_pool.drivers.base import Driver
    from djorm_pool.lease import Lease
    from djorm_pool.pool import FairPool
    from sqlalchemy.pool import QueuePool

    class Dummy:
        def rollback(self):
            pass

        def close(self):
            pass

    class Quiet(Driver):
        def fileno(self, raw):
            return None

        def in_transaction(self, raw):
            return False

    fair = FairPool(Quiet(), Options(pool_size=5), "dummy")
    fair.recipe = Dummy

    def ours():
        lease = Lease()
        fair.acquire(lease)
        fair.release(lease)

    theirs_pool = QueuePool(Dummy, pool_size=5)

    def theirs():
        theirs_pool.connect().close()

    found = {}
    for name, function in (("ours_us", ours), ("queuepool_us", theirs)):
        function()
        best = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(20_000):
                function()
            best.append((time.perf_counter() - start) / 20_000 * 1e6)
        found[name] = statistics.median(best)
    return found


def memory(given):
    """Bytes of this process's memory a pooled connection and a waiting thread's place in line cost."""
    import gc
    import tracemalloc

    from django.db import connection

    def rss():
        with open("/proc/self/statm") as found:
            return int(found.read().split()[1]) * 4096

    request()
    held = []
    gc.collect()
    before = rss()
    for _ in range(given["size"] - 1):
        held.append(connection.copy())
        held[-1].ensure_connection()
    connected = (rss() - before) / len(held)
    for one in held:
        one.close()
    from djorm_pool.lease import Lease

    pool = connection.djorm_pool
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    waiters = [Lease("default") for _ in range(1000)]
    for waiter in waiters:
        pool._enqueue(waiter)
    waiting = (tracemalloc.get_traced_memory()[0] - base) / 1000
    pool._waiters.clear()
    return {"bytes_a_connection_rss": connected, "bytes_a_waiter": waiting}


def restart(given):
    """Requests while the server restarts: which fail, and when."""
    import subprocess

    from django.db import Error

    stop, results = threading.Event(), []

    def work():
        while not stop.is_set():
            start = time.monotonic()
            try:
                request()
                results.append((start, time.monotonic(), None))
            except Error as error:
                results.append((start, time.monotonic(), str(error)))
            time.sleep(0.005)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    down = time.monotonic()
    subprocess.run(given["server"]["restart"], check=True, stdout=subprocess.DEVNULL)
    up = time.monotonic()
    time.sleep(2)
    stop.set()
    for thread in threads:
        thread.join(60)
    failed = [r for r in results if r[2]]
    return {
        "outage_s": up - down,
        "errors": len(failed),
        "errors_after": sum(1 for r in failed if r[0] > up),
        "requests": len(results),
    }


WORK = {f.__name__: f for f in (one_thread, many_threads, checkout, memory, restart)}

if __name__ == "__main__":
    mode, work = sys.argv[1:]
    parameters = json.load(sys.stdin)
    configure(mode, parameters)
    print(json.dumps(WORK[work](parameters)))
    sys.stdout.flush()
