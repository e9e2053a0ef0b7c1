"""T18 (the check), T26, T33, T34 and bad input: what is said about settings."""

import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings
from helpers import close, in_thread, pool, project, value, wait_for

BAD_OPTIONS = [
    ({"pool_sise": 5}, "pool_sise", "pool_size"),
    ({"POOL_SIZE": 5}, "POOL_SIZE", "pool_size"),
    ({"max_size": 5}, "max_size", "pool_size"),
    ({"pool_size": -1}, "-1", "0 or more"),
    ({"pool_size": "20"}, "'20'", "whole number"),
    ({"pool_size": 2.5}, "2.5", "whole number"),
    ({"pool_size": True}, "True", "whole number"),
    ({"pool_size": 0}, "pool_size", "allow_unbounded"),
    ({"max_overflow": -1}, "max_overflow", "allow_unbounded"),
    ({"max_overflow": -2}, "-2", "-1 or more"),
    ({"recycle": 0}, "recycle", "-1"),
    ({"recycle": "1h"}, "'1h'", "seconds"),
    ({"timeout": -1}, "-1", "0 or more"),
    ({"timeout": None}, "None", "0 or more"),
    ({"max_waiting": -1}, "-1", "None"),
    ({"release": "never"}, "'never'", "'statement'"),
    ({"reset": True}, "True", "'always'"),
    ({"pessimistic": "maybe"}, "'maybe'", "'auto'"),
    ({"pessimistic": 1}, "1", "True"),
    ({"renew_file": "run/writer"}, "'run/writer'", "absolute path"),
    ({"jitter": 0.9}, "0.9", "0.5"),
    ({"min_idle": 30, "pool_size": 5}, "min_idle", "pool_size"),
    ({"pre_ping": True, "pessimistic": False}, "pre_ping", "pessimistic"),
    ([("pool_size", 5)], "dictionary", "DJORM_POOL_OPTIONS"),
]


@pytest.mark.parametrize(("given", "shown", "allowed"), BAD_OPTIONS, ids=lambda v: str(v)[:40])
def test_bad_options_are_named_with_what_is_allowed(given, shown, allowed):
    from djorm_pool import conf

    with override_settings(DJORM_POOL_OPTIONS=given), pytest.raises(ImproperlyConfigured) as caught:
        conf.build(conf.global_options(), conf.SETTING)
    text = str(caught.value)
    assert shown in text and allowed in text and "DJORM_POOL_OPTIONS" in text


@pytest.mark.parametrize("name", ["DJORM_POOL_OPTION", "DJORM_POOL_OPTONS", "DJORM_POOL_PESIMISTIC"])
def test_misspelt_settings_are_an_error_that_names_the_right_one(sqlite, name):
    done = project(
        {"default": sqlite.settings()},
        "manage.py", "check",
        env={"PROJECT_SETTINGS": json.dumps({name: {"pool_size": 5}})},
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    right = "DJORM_POOL_PESSIMISTIC" if "PES" in name else "DJORM_POOL_OPTIONS"
    assert f"Unknown setting {name}. Did you mean {right}?" in done.stderr


@pytest.mark.parametrize("value_", ["yes", 1, None])
def test_bad_pessimistic(value_):
    from djorm_pool import conf

    with override_settings(DJORM_POOL_PESSIMISTIC=value_), pytest.raises(ImproperlyConfigured) as caught:
        conf.global_options()
    assert "DJORM_POOL_PESSIMISTIC" in str(caught.value) and "'auto'" in str(caught.value)


def test_unbounded_when_asked_for(server):
    alias = server.alias(pool={"pool_size": 0, "max_overflow": 0, "allow_unbounded": True})
    held = [connections[alias].copy() for _ in range(12)]
    for wrapper in held:
        wrapper.ensure_connection()
    assert pool(alias).checkedout() == 12
    for wrapper in held:
        wrapper.close()
    assert pool(alias).checkedin() == 12


def test_t34_settings_are_not_changed(server):
    given = {"pool_size": 3, "max_overflow": 0}
    own = {"timeout": 3}
    with override_settings(DJORM_POOL_OPTIONS=given):
        alias = server.alias(options={})
        settings_dict = connections[alias].settings_dict
        settings_dict["OPTIONS"]["pool"] = own
        before = json.dumps(settings_dict, default=str)
        assert value(alias, "SELECT 1") == 1
        close(alias)
        assert pool(alias).options.pool_size == 3 and pool(alias).options.timeout == 3
        assert json.dumps(settings_dict, default=str) == before
    assert given == {"pool_size": 3, "max_overflow": 0} and own == {"timeout": 3}


def test_per_alias_pool_option(server):
    alias = server.alias()
    wrapper = connections[alias]
    wrapper.settings_dict["OPTIONS"]["pool"] = False
    number = value(alias, server.id_sql)
    close(alias)
    wait_for(lambda: number not in server.all_ids())
    assert wrapper.djorm_pool is None
    with override_settings(DJORM_POOL_OPTIONS={"pool_size": 7}):
        wrapper.settings_dict["OPTIONS"]["pool"] = True
        assert wrapper.djorm_pool.options.pool_size == 7


def test_native_pool_beside_ours_is_a_check_error_and_pools_once(postgresql):
    from djorm_pool.checks import check_settings

    alias = postgresql.alias()
    settings_dict = connections.settings[alias]
    settings_dict["ENGINE"] = "django.db.backends.postgresql"
    settings_dict["OPTIONS"] = {"pool": {"min_size": 1}}
    problems = [p for p in check_settings() if p.id == "djorm_pool.E003"]
    assert len(problems) == 1 and alias in problems[0].msg
    assert connections[alias].djorm_pool is None


def test_t18_check_error(server):
    from djorm_pool.checks import check_settings

    alias = server.alias(CONN_MAX_AGE=60)
    problems = [p for p in check_settings() if p.id == "djorm_pool.E002"]
    assert [alias in p.msg and "60" in p.msg for p in problems] == [True]


def test_check_database_knows_the_server(server):
    from djorm_pool.checks import check_server

    most = int(server.ask("SELECT @@max_connections")[0][0])
    fine = server.alias(pool={"pool_size": 2})
    large = server.alias(pool={"pool_size": most + 1})
    problems = check_server(databases=[fine, large])
    assert len(problems) == 1 and str(most) in problems[0].msg and large in problems[0].msg


@pytest.mark.parametrize("switches", ["both", "apps", "engine"])
def test_t26_both_switches_pool_once(server, switches):
    """As many physical connections as are lent, whichever way it is switched on."""
    server.create()
    script = (
        "import django, threading; django.setup()\n"
        "from django.db import connection, connections\n"
        "import djorm_pool\n"
        "ready, go = threading.Barrier(4), threading.Event()\n"
        "def work():\n"
        "    with connections['default'].cursor() as c:\n"
        "        c.execute('SELECT 1'); ready.wait(10); go.wait(10)\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "[t.start() for t in threads]; ready.wait(10)\n"
        "row = djorm_pool.status()['default']\n"
        "print(row['checked_out'], row['created_total'], flush=True)\n"
        "input(); go.set()\n"
        "[t.join() for t in threads]\n"
    )
    engine = "django.db.backends.mysql" if switches == "apps" else "djorm_pool.backends.mysql"
    apps = ["shop"] if switches == "engine" else ["djorm_pool", "shop"]
    import subprocess
    import sys

    from helpers import DATABASE, PROJECT, environment

    env = environment({"default": server.settings(engine=engine)}, {"PROJECT_APPS": json.dumps(apps)})
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline().split() == ["3", "3"]
            assert len(server.connected(DATABASE)) == 3
        finally:
            process.communicate("\n", timeout=20)


def test_t33_a_wrapper_from_before_the_graft(server):
    """It had a connection of its own when the pool came: that is closed as ever, and then it borrows."""
    server.create()
    script = (
        "import os, json\n"
        "from django.conf import settings\n"
        "databases = json.loads(os.environ['PROJECT_DATABASES'])\n"
        "settings.configure(DATABASES=databases, INSTALLED_APPS=[], USE_TZ=True)\n"
        "from django.db import connection\n"
        "def number():\n"
        "    with connection.cursor() as c:\n"
        "        c.execute('SELECT CONNECTION_ID()'); return c.fetchone()[0]\n"
        "first = number()\n"
        "import djorm_pool; djorm_pool.patch_mysql()\n"
        "assert number() == first\n"
        "connection.close()\n"
        "second = number(); connection.close()\n"
        "assert second != first and number() == second\n"
        "assert djorm_pool.status()['default']['checked_out'] == 1\n"
        "print('ok')\n"
    )
    env = {"DJANGO_SETTINGS_MODULE": ""}
    assert project({"default": server.settings()}, "-c", script, env=env).stdout.strip() == "ok"


def test_t27_a_rotated_password(server, caplog):
    user = "pooltest_t27"
    server.create()
    server.ask(f"DROP USER IF EXISTS '{user}'@'%'")
    server.ask(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'old-secret'")
    server.ask(f"GRANT ALL ON *.* TO '{user}'@'%'")
    caplog.set_level("DEBUG")
    try:
        alias = server.alias(USER=user, PASSWORD="old-secret")
        number = value(alias, "SELECT CONNECTION_ID()")
        fair = pool(alias)
        close(alias)
        server.ask(f"ALTER USER '{user}'@'%' IDENTIFIED BY 'new-secret'")
        connections[alias].settings_dict["PASSWORD"] = "new-secret"
        server.kill(number)
        assert value(alias, "SELECT CONNECTION_ID()") != number
        assert pool(alias) is fair
        # a reset authenticates with the new one too
        value(alias, "SELECT @x := 1")
        close(alias)
        assert value(alias, "SELECT @x") is None
        close(alias)
        connections[alias].settings_dict["PASSWORD"] = "wrong-secret"
        fair.close_idle()
        with pytest.raises(Exception, match="1045") as caught:
            value(alias, "SELECT 1")
        from djorm_pool import registry, status

        shown = f"{list(registry._pools)} {caplog.text} {caught.value} {status()} {fair} {fair.label}"
        assert "secret" not in shown
        assert fair.checkedout() == 0
    finally:
        server.ask(f"DROP USER '{user}'@'%'")


def test_in_memory_sqlite_is_left_alone(sqlite):
    """T25."""
    alias = sqlite.alias()
    connections.settings[alias]["NAME"] = ":memory:"
    assert connections[alias].djorm_pool is None
    value(alias, "SELECT 1")
    connections[alias].cursor().execute("CREATE TABLE t (a INT)")
    close(alias)
    assert value(alias, "SELECT COUNT(*) FROM t") == 0
    connections[alias].connection.close()
    connections[alias].connection = None


def test_sqlite_files(sqlite, tmp_path):
    """T25: functions and pragmas are there, and a file that was deleted or replaced is noticed."""
    alias = sqlite.alias()
    for _ in range(3):
        assert value(alias, "PRAGMA foreign_keys") == 1
        assert value(alias, "SELECT django_date_extract('year', '2020-01-02')") == 2020
        close(alias)
    assert pool(alias).counters["created"] == 1
    connections[alias].cursor().execute("PRAGMA foreign_keys = OFF")
    close(alias)
    assert value(alias, "PRAGMA foreign_keys") == 1
    connections[alias].cursor().execute("CREATE TABLE gone (a INT)")
    close(alias)
    import os

    os.unlink(connections[alias].settings_dict["NAME"])
    assert value(alias, "SELECT COUNT(*) FROM sqlite_master") == 0
    close(alias)
    connections[alias].close_pool()
    assert pool(alias).checkedin() == 0


def test_t20_close_pool_in_a_loop_with_borrowers(server):
    """Celery calls it after each task: cheap, and nobody who holds a connection notices."""
    import threading
    import time

    alias = server.alias(pool={"pool_size": 3, "timeout": 10})
    stop, errors = threading.Event(), []

    def borrower():
        from djorm_pool import release

        try:
            while not stop.is_set():
                release.request_started(environ={})
                assert value(alias, "SELECT 41 + 1") == 42
                close(alias)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=borrower) for _ in range(4)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    for _ in range(200):
        connections[alias].close()
        connections[alias].close_pool()
    took = time.monotonic() - start
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors
    assert took < 4
    from django.db import transaction

    with transaction.atomic(using=alias):
        number = value(alias, "SELECT CONNECTION_ID()")
        in_thread(lambda: connections[alias].close_pool())
        assert value(alias, "SELECT CONNECTION_ID()") == number
    close(alias)
    wait_for(lambda: number not in server.all_ids())
    connections[alias].close_pool()
    wait_for(lambda: not server.connected())
    assert in_thread(value, alias, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("threads", "release", "expected"), [(9, "request", True), (8, "request", False), (9, "statement", False)]
)
def test_many_more_threads_than_connections_is_a_warning(monkeypatch, sqlite, threads, release, expected):
    from djorm_pool.checks import check_settings

    sqlite.alias(pool={"pool_size": 2, "max_overflow": 0, "release": release})
    monkeypatch.setenv("GUNICORN_CMD_ARGS", f"--workers 2 --threads={threads}")
    found = [p for p in check_settings() if p.id == "djorm_pool.W001"]
    assert bool(found) is expected
