"""Aliases made on the fly, and short ways to use them."""

import contextlib
import gc
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parent / "project"
DATABASE = f"pooltest_{os.getpid()}"
_numbers = itertools.count(1)
_aliases = []
_created = set()


def servers():
    """What POOL_TEST_SERVERS says: JSON, or the name of a file that holds it."""
    given = os.environ.get("POOL_TEST_SERVERS") or "{}"
    return json.loads(given if given.lstrip().startswith("{") else Path(given).read_text())


def configure():
    """Django for the tests: djorm_pool in INSTALLED_APPS, one harmless default alias."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["djorm_pool"],
            USE_TZ=True,
            SECRET_KEY="x" * 50,
        )
        django.setup()
        from djorm_pool import patch_all

        patch_all()


def drop_aliases():
    from django.db import connections
    from djorm_pool import registry

    while _aliases:
        alias = _aliases.pop()
        wrapper = connections[alias]
        wrapper.in_atomic_block = False
        wrapper.close()
        del connections[alias]
        connections.settings.pop(alias, None)
    # equal parameters share a pool: a test must not find the counters of the one before
    gone = registry.pools()
    registry._pools.clear()
    for one in gone:
        one.recipe = None  # upkeep may be in the middle of its round: it shall open no more
        if one.checkedout():
            gc.collect()
            one.reap()  # what threads of the test left when they ended
        one.close_idle()
    registry.epoch += 1


class Server:
    """One server (or SQLite), on which a test gets databases and aliases of its own."""

    def __init__(self, name, engine, where):
        self.name = name
        self.engine = engine
        self.where = where
        self.is_mysql = engine == "mysql"
        self.folder = None

    def settings(self, database=DATABASE, engine=None, options=None, **extra):
        found = {
            "ENGINE": engine or f"django.db.backends.{self.engine}",
            "NAME": database,
            "USER": self.where.get("user", ""),
            "PASSWORD": self.where.get("password", ""),
            "HOST": self.where.get("host", ""),
            "PORT": str(self.where.get("port", "")),
            "ATOMIC_REQUESTS": False,
            "AUTOCOMMIT": True,
            "CONN_MAX_AGE": 0,
            "CONN_HEALTH_CHECKS": False,
            "TIME_ZONE": None,
            "OPTIONS": options or {},
            "TEST": {"CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None, "NAME": None},
        }
        if self.name == "sqlite":
            self.folder = self.folder or tempfile.mkdtemp()
            found["NAME"] = os.path.join(self.folder, database)
        found.update(extra)
        return found

    def alias(self, database=DATABASE, pool=None, options=None, create=True, **extra):
        """A new alias; `pool` are its options (default: 2 connections, no overflow)."""
        from django.db import connections

        if create:
            self.create(database)
        pool = {"pool_size": 2, "max_overflow": 0, "timeout": 5, **(pool or {})}
        options = dict(options or {})
        ours = extra.get("engine") or self.engine != "postgresql"
        if not ours:
            extra["engine"] = "djorm_pool.backends.postgresql"
        options["pool"] = pool
        name = f"{self.name}_{next(_numbers)}"
        connections.settings[name] = self.settings(database, options=options, **extra)
        _aliases.append(name)
        return name

    def admin(self, database=None):
        """The driver's own connection, past Django and the pool, in autocommit."""
        where = self.where
        if self.is_mysql:
            import MySQLdb

            extra = {"database": database} if database else {}
            return MySQLdb.connect(
                host=where["host"],
                port=int(where["port"]),
                user=where["user"],
                password=where.get("password", ""),
                autocommit=True,
                **extra,
            )
        import psycopg

        return psycopg.connect(
            host=where["host"],
            port=where["port"],
            user=where["user"],
            password=where.get("password", ""),
            dbname=database or "postgres",
            autocommit=True,
        )

    def ask(self, sql, database=None):
        connection = self.admin(database)
        try:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()

    def create(self, database=DATABASE):
        if self.name == "sqlite" or (self.name, database) in _created:
            return
        self.drop(database)
        self.ask(f"CREATE DATABASE {database}")
        _created.add((self.name, database))

    def drop(self, database):
        force = " WITH (FORCE)" if self.engine == "postgresql" else ""
        self.ask(f"DROP DATABASE IF EXISTS {database}{force}")
        _created.discard((self.name, database))

    def clean(self):
        """After each test: what it made goes, and nothing of it may stay connected."""
        drop_aliases()
        for name, database in list(_created):
            if name != self.name or name == "sqlite":
                continue
            wait_for(lambda d=database: not self.connected(d), 30)
            if database != DATABASE:
                self.drop(database)

    def connected(self, database=DATABASE):
        """Connections on that database, by the server's own word."""
        if self.is_mysql:
            sql = f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        else:
            sql = f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}'"
        return [row[0] for row in self.ask(sql)]

    def kill(self, connection_id):
        if self.is_mysql:
            self.ask(f"KILL {int(connection_id)}")
        else:
            self.ask(f"SELECT pg_terminate_backend({int(connection_id)})")
        wait_for(lambda: connection_id not in self.all_ids())

    def all_ids(self):
        table = "information_schema.processlist" if self.is_mysql else "pg_stat_activity"
        column = "id" if self.is_mysql else "pid"
        return [row[0] for row in self.ask(f"SELECT {column} FROM {table}")]

    def restart(self):
        command = self.where.get("restart")
        assert command, f"POOL_TEST_SERVERS: {self.name} has no 'restart' command"
        subprocess.run(command, check=True, timeout=120)

    @property
    def id_sql(self):
        return "SELECT connection_id()" if self.is_mysql else "SELECT pg_backend_pid()"


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out waiting for a condition"
        time.sleep(0.02)


def run(alias, sql, params=None):
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else None


def value(alias, sql, params=None):
    return run(alias, sql, params)[0][0]


def close(alias):
    """As at a request's end."""
    from django.db import connections

    connections[alias].close_if_unusable_or_obsolete()


def pool(alias):
    from django.db import connections

    return connections[alias].djorm_pool


def in_thread(function, *args, timeout=30):
    """Run in a thread of its own; its result or its exception."""
    box = {}

    def work():
        try:
            box["value"] = function(*args)
        except BaseException as error:  # handed to the caller
            box["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "the thread hangs"
    if "error" in box:
        raise box["error"]
    return box["value"]


def as_request(function, path="/"):
    """Run on this thread as one request: begin, work, end."""
    from djorm_pool import release

    release.request_started(environ={"PATH_INFO": path})
    try:
        return function()
    finally:
        release.request_finished()


def environment(servers, env=None):
    package = os.environ.get("POOL_TEST_PACKAGE") or str(PROJECT.parents[2] / "app")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), package]),
        "DJANGO_SETTINGS_MODULE": "project_settings",
        "PROJECT_DATABASES": json.dumps(servers),
        "PYTHONDONTWRITEBYTECODE": "1",
        **(env or {}),
    }


def project(servers, *arguments, env=None, check=True, timeout=120):
    """Run the test project's manage.py (or another script) in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=environment(servers, env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def serve(server, *arguments, env=None, command=None):
    """The test project under gunicorn (gthread), or under another server's COMMAND; the port."""
    port = free_port()
    command = command or "-m gunicorn project_wsgi -k gthread --threads 4 -b 127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, *command.format(port=port).split(), *arguments],
        cwd=PROJECT,
        env=environment({"default": server.settings()}, env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listening(port), 30)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(port, number):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/echo/{number}/", timeout=30) as answer:
        return json.load(answer)


def hammer(port, requests, threads):
    """Many requests at once, each of which must get its own value back; the connection ids seen."""
    numbers, errors = set(), []
    count = iter(range(requests))

    def work():
        for number in count:
            try:
                answer = get(port, number)
                assert answer["value"] == number, f"asked {number}, got {answer}"
                numbers.add(answer["connection"])
            except Exception as error:
                errors.append(error)

    crowd = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(120)
    assert not errors, errors[:3]
    return numbers
