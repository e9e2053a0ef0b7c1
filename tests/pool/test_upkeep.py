"""Idle shrink, minimum idle, keepalive, leak report, metrics, test helpers, the command."""

import json
import subprocess
import sys
import time
import unittest
from unittest import mock

import pytest
from django.db import connections
from helpers import PROJECT, close, environment, in_thread, pool, project, value, wait_for
from test_outage import fill


def test_idle_shrink_keeps_the_minimum(server):
    alias = server.alias(pool={"pool_size": 5, "idle_timeout": 0.3, "min_idle": 2})
    numbers = set(fill(alias, 5))
    assert pool(alias).checkedin() == 5
    wait_for(lambda: pool(alias).checkedin() == 2)
    wait_for(lambda: len(server.connected()) == 2)
    time.sleep(0.4)
    assert pool(alias).checkedin() == 2
    assert len(server.connected()) == 2 and set(server.connected()) <= numbers


def test_minimum_idle_is_opened_in_the_background(server):
    alias = server.alias(pool={"pool_size": 4, "min_idle": 3})
    value(alias, "SELECT 1")
    wait_for(lambda: pool(alias).checkedin() == 3)
    assert pool(alias).checkedout() == 1
    number = in_thread(lambda: (value(alias, "SELECT @@transaction_isolation"), close(alias))[0])
    assert number == "READ-COMMITTED", "a connection that upkeep opened is initialised when it is lent"


def test_keepalive_pings_and_drops_the_dead(server):
    alias = server.alias(pool={"pool_size": 2, "keepalive": 0.2, "min_idle": 0})
    numbers = fill(alias, 2)
    wait_for(lambda: pool(alias).counters["pings"] >= 4)
    assert pool(alias).counters["discarded"] == 0
    server.kill(numbers[0])
    wait_for(lambda: len(pool(alias)._open_entries) == 1)


def test_close_pool_during_a_ping_of_upkeep(server):
    """What upkeep has set aside is not idle just then: it must be closed when it comes back."""
    alias = server.alias(pool={"pool_size": 1, "keepalive": 1000, "idle_timeout": 0})
    number = fill(alias, 1)[0]
    fair = pool(alias)
    real = fair.driver.ping

    def ping(raw):
        fair.close_idle()
        real(raw)

    with mock.patch.object(fair.driver, "ping", ping):
        entry = fair._idle[0].entry
        entry.used = entry.checked = -1e9
        fair.maintain()
        wait_for(lambda: fair.counters["pings"] and fair.checkedout() == 0)
    assert fair.checkedin() == 0 and not fair._open_entries
    wait_for(lambda: number not in server.all_ids())


@pytest.mark.parametrize("who", ["borrower", "upkeep"])
def test_close_pool_while_a_connection_is_being_opened(server, who):
    """It may have reached what close_pool() was to leave (the old server of a failover): closed, not kept."""
    import MySQLdb

    alias = server.alias(pool={"pool_size": 1, "min_idle": int(who == "upkeep")})
    fair = pool(alias)
    real, opened = MySQLdb.connect, []

    def connect(**params):
        raw = real(**params)
        if not opened:
            opened.append(raw.thread_id())
            fair.close_idle()
        return raw

    if who == "upkeep":
        fill(alias, 1)
        fair.close_idle()
    with mock.patch("MySQLdb.connect", connect):
        if who == "borrower":
            opened_by = value(alias, "SELECT CONNECTION_ID()")
            assert [opened_by] == opened
            close(alias)
        else:
            fair.maintain()
            wait_for(lambda: opened and fair.checkedout() == 0)
    wait_for(lambda: opened[0] not in server.all_ids())


def test_leak_report(server, caplog):
    from djorm_pool import release

    alias = server.alias(pool={"pool_size": 2, "leak_after": 0.2, "leak_stack": True})
    release.request_started(environ={"PATH_INFO": "/leaky"})
    with caplog.at_level("WARNING", "djorm.pool"):
        value(alias, "SELECT 1")
        wait_for(lambda: pool(alias).counters["leaks"] == 1)
        time.sleep(0.4)
    close(alias)
    assert pool(alias).counters["leaks"] == 1, "once a borrowing"
    text = caplog.text
    assert "MainThread" in text and "/leaky" in text and alias in text and "test_leak_report" in text


class Assertions(unittest.TestCase):
    def runTest(self):
        pass


def test_assertions(server):
    from djorm_pool.testing import PoolAssertions

    case = type("Case", (PoolAssertions, Assertions), {})()
    alias = server.alias(pool={"pool_size": 4})
    value(alias, "SELECT 1")
    with case.assertNoPoolLeaks(), case.assertMaxConnections(1, using=alias):
        value(alias, "SELECT 1")
    leak = connections[alias].copy()
    with pytest.raises(AssertionError, match="not given back"), case.assertNoPoolLeaks():
        leak.ensure_connection()
    leak.close()
    with pytest.raises(AssertionError, match="2 connections"), case.assertMaxConnections(1, using=alias):
        leak.ensure_connection()
        value(alias, "SELECT 1")
    leak.close()


def test_status_has_what_the_site_shows(server):
    import djorm_pool

    alias = server.alias(pool={"pool_size": 3, "pessimistic": True})
    value(alias, "SELECT 1")
    row = djorm_pool.status()[alias]
    assert (row["size"], row["limit"], row["checked_out"], row["idle"], row["waiting"]) == (3, 3, 1, 0, 0)
    assert row["pessimistic"] is True and row["options"]["recycle"] == 3600 and row["pid"]
    assert row["waits_total"] == row["timeouts_total"] == 0 and row["created_total"] == 1
    assert row["server"]["max_connections"] == int(server.ask("SELECT @@max_connections")[0][0])
    json.dumps(row)


def test_pool_status_command(server):
    server.create()
    done = project({"default": server.settings()}, "manage.py", "pool_status", "--json")
    row = json.loads(done.stdout)["default"]
    assert (
        row["size"] == 3 and row["server"]["threads_connected"] >= 1 and row["server"]["of_this_account"] >= 1
    )
    assert "up to 3 connections" in project({"default": server.settings()}, "manage.py", "pool_status").stdout


METRICS = """
import django, os, sys, time
django.setup()
from djorm_pool import metrics
from django.db import connection
metrics.enable()
pids = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            with connection.cursor() as c:
                c.execute("SELECT 1")
            connection.close()
        with connection.cursor() as c:
            c.execute("SELECT 1")
        metrics.update()
        sys.stdin.readline() if n == 9 else time.sleep(2)
        os._exit(0)
    pids.append(pid)
time.sleep(1)
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
for pid in pids:
    os.waitpid(pid, 0)
"""


def test_metrics_add_up_across_processes(server, tmp_path):
    server.create()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    text = project({"default": server.settings()}, "-c", METRICS, env=env).stdout
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    assert float(values['djorm_pool_checkouts_total{alias="default"}']) == 18
    assert float(values['djorm_pool_created_total{alias="default"}']) == 3
    assert float(values['djorm_pool_checked_out{alias="default"}']) == 3
    assert float(values['djorm_pool_limit{alias="default"}']) == 9


def test_logging_under_djorm_pool(server, caplog):
    with caplog.at_level("DEBUG", "djorm.pool"):
        alias = server.alias(pool={"pool_size": 1})
        value(alias, "SELECT 1")
    assert [r.name for r in caplog.records if "opened" in r.message] == ["djorm.pool"]


def test_installed_by_pip(tmp_path):
    """The folder is a package of its own: `pip install ./app/djorm_pool`."""
    source = PROJECT.parents[2] / "app" / "djorm_pool"
    import shutil

    copy = tmp_path / "djorm_pool"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(copy)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    env = environment({"default": {"ENGINE": "djorm_pool.backends.sqlite3", "NAME": str(tmp_path / "db")}})
    env["PYTHONPATH"] = f"{PROJECT}:{target}"
    script = (
        "import djorm_pool, django; django.setup(); print(djorm_pool.__file__, list(djorm_pool.status()))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert str(target) in done.stdout and "default" in done.stdout
    commands = target / "djorm_pool" / "management" / "commands" / "pool_status.py"
    assert commands.exists()


def test_a_changed_renew_file_renews_what_is_idle_and_spares_what_is_lent(server, tmp_path):
    told = tmp_path / "writer"
    told.write_text("db1")
    alias = server.alias(pool={"pool_size": 3, "renew_file": str(told), "idle_timeout": 0})
    before = set(fill(alias, 3))
    held = value(alias, "SELECT CONNECTION_ID()")
    assert held in before
    (tmp_path / "new").write_text("db2")
    (tmp_path / "new").rename(told)
    wait_for(lambda: pool(alias).checkedin() == 0)  # upkeep looks, without a borrower
    assert value(alias, "SELECT CONNECTION_ID()") == held, "who holds one keeps it to the end of the work"
    close(alias)
    assert value(alias, "SELECT CONNECTION_ID()") not in before
    close(alias)
    told.unlink()  # whoever wrote it is away: no news
    again = value(alias, "SELECT CONNECTION_ID()")
    close(alias)
    assert value(alias, "SELECT CONNECTION_ID()") == again
