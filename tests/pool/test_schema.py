"""T1 to T4: never on the wrong schema."""

import os
import re

import pytest
from django.db import OperationalError, connections
from django.db.backends.base.base import NO_DB_ALIAS
from helpers import DATABASE, close, pool, project, run, value, wait_for

PROD = f"prod_{os.getpid()}"


@pytest.fixture
def production(server):
    server.create(PROD)
    project({"default": server.settings(PROD)}, "manage.py", "migrate", "--run-syncdb", "-v0")
    server.ask(f"INSERT INTO {PROD}.shop_row (text) VALUES ('one'), ('two')")
    yield server
    for suffix in ("", "_1", "_2", "_3", "_4"):
        server.drop(f"test_{PROD}{suffix}")


@pytest.mark.parametrize("early", ["open", "close"])
def test_t1_tests_never_run_on_production(production, early):
    done = project(
        {"default": production.settings(PROD)},
        "manage.py", "test", "--noinput", "shop",
        env={"SHOP_EARLY": early},
    )  # fmt: skip
    assert re.findall(r"RAN (\w) (\S+)", done.stdout) == [(c, f"test_{PROD}") for c in "CABD"]
    assert production.ask(f"SELECT COUNT(*) FROM {PROD}.shop_row")[0][0] == 2


def test_t2_parallel_workers_have_a_schema_each(production, tmp_path):
    done = project(
        {"default": production.settings(PROD)},
        "manage.py", "test", "--noinput", "--parallel", "4", "shop",
        env={"SHOP_EARLY": "close", "SHOP_CLONE_BY_SQL": "1", "SHOP_MEET": str(tmp_path)},
    )  # fmt: skip
    ran = re.findall(r"RAN \w (\S+) (\S+) (\d+)", done.stdout)
    assert len(ran) == 4
    assert all(re.fullmatch(rf"test_{PROD}_[1-4]", name) and name == wanted for name, wanted, _ in ran)
    assert len({name for name, _, _ in ran}) == len({number for _, _, number in ran}) > 1
    assert production.ask(f"SELECT COUNT(*) FROM {PROD}.shop_row")[0][0] == 2


def test_t2_settings_changed_in_place(server):
    """The test runner changes settings_dict["NAME"] of a living wrapper."""
    other = f"{DATABASE}_other"
    server.create(other)
    alias = server.alias()
    assert value(alias, "SELECT DATABASE()") == DATABASE
    close(alias)
    connections[alias].settings_dict["NAME"] = other
    assert value(alias, "SELECT DATABASE()") == other
    copy = connections[alias].copy()
    copy.settings_dict["NAME"] = DATABASE
    with copy.cursor() as cursor:
        cursor.execute("SELECT DATABASE()")
        assert cursor.fetchone() == (DATABASE,)
    copy.close()


def test_t2_what_decides_is_noticed_when_it_changes(server):
    """A wrapper that borrows again remembers what it borrowed with: never longer than it is true."""
    alias = server.alias(options={"init_command": "SET @from = 1"})
    settings = connections[alias].settings_dict
    for _ in range(3):
        assert value(alias, "SELECT @from") == 1
        close(alias)
    settings["OPTIONS"]["init_command"] = "SET @from = 2"
    assert value(alias, "SELECT @from") == 2
    close(alias)
    first = pool(alias)
    settings["OPTIONS"]["pool"] = {"pool_size": 1, "connect_retry": 0}
    assert value(alias, "SELECT @from") == 2
    assert pool(alias) is not first and pool(alias).size() == 1
    close(alias)
    settings["HOST"] = "127.0.0.1"
    settings["PORT"] = "1"
    with pytest.raises(OperationalError, match=r"200[23]"):
        run(alias, "SELECT 1")


def test_t3_no_database_alias_goes_to_its_own_server(both_servers):
    from djorm_pool import registry

    seen = []
    for server in both_servers:
        alias = server.alias()
        run(alias, "SELECT 1")
        close(alias)
        with connections[alias]._nodb_cursor() as cursor:
            cursor.execute("SELECT @@port, @@hostname, VERSION(), DATABASE()")
            port, host, version, database = cursor.fetchone()
        assert ("MariaDB" in version) == (server.name == "mariadb")
        assert database is None
        seen.append((port, host, version))
        assert pool(alias).checkedin() == 1
        assert not any(NO_DB_ALIAS in p.aliases for p in registry.pools()), "it was not pooled"
    assert seen[0] != seen[1]


def test_t4_nothing_stays_connected_to_a_dropped_schema(net_server, monkeypatch):
    server = net_server
    name = f"{DATABASE}_t4"
    test_name, clone = f"test_{name}", f"test_{name}_1"
    alias = server.alias(name)
    for database in (test_name, clone):
        server.drop(database)
    creation = connections[alias].creation
    if server.is_mysql:
        monkeypatch.setattr(type(creation), "_clone_db", lambda *args: None)
    from django.conf import settings

    settings.DATABASES[alias] = connections.settings[alias]
    try:
        for _ in range(2):
            run(alias, "SELECT 1")
            close(alias)
            creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
            current = "SELECT DATABASE()" if server.is_mysql else "SELECT current_database()"
            assert value(alias, current) == test_name
            close(alias)
            creation.clone_test_db("1", verbosity=0, autoclobber=True)
            creation.destroy_test_db(name, verbosity=0, suffix="1")
            creation.connection.settings_dict["NAME"] = test_name
            run(alias, "SELECT 1")
            creation.destroy_test_db(name, verbosity=0)
            wait_for(lambda: not server.connected(test_name) and not server.connected(clone))
            assert value(alias, current) == name
            close(alias)
    finally:
        settings.DATABASES.pop(alias, None)
