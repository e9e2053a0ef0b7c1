"""Every parameter on every server version: it exists or not, is written, translated, read back."""

import re

import pytest

from planner import catalogue, versions
from planner.catalogue import BY_NAME, CATALOGUE
from planner.errors import PlanError
from planner.settings import resolve

# The article's table, for an inventory of names that does not come from the catalogue itself.
ARTICLE = """
user pid_file socket port basedir datadir tmpdir lc_messages_dir skip_external_locking external_locking
open_files_limit back_log key_buffer_size max_allowed_packet thread_stack thread_cache_size
myisam_recover_options max_connections max_connect_errors query_cache_limit query_cache_size
query_cache_min_res_unit log_error expire_logs_days max_binlog_size transaction_isolation tmp_table_size
max_heap_table_size long_query_time binlog_cache_size max_binlog_cache_size read_buffer_size
read_rnd_buffer_size bulk_insert_buffer_size myisam_sort_buffer_size myisam_max_sort_file_size
myisam_repair_threads lower_case_table_names innodb_buffer_pool_size innodb_thread_concurrency
innodb_flush_log_at_trx_commit innodb_log_buffer_size innodb_log_file_size innodb_log_files_in_group
innodb_max_dirty_pages_pct innodb_lock_wait_timeout innodb_file_per_table
"""

MYSQL = ["8.0.11", "8.0.29", "8.0.30", "8.0.42", "8.1.0", "8.2.0", "8.3.0", "8.4.0", "8.4.6"] + [
    f"9.{minor}.0" for minor in range(8)
]
MARIADB = [
    "10.6.0",
    "10.6.22",
    "10.11.18",
    "11.0.2",
    "11.1.1",
    "11.4.7",
    "11.8.6",
    "12.0.1",
    "12.1.2",
    "12.3.0",
]
SERVERS = [("mysql", version) for version in MYSQL] + [("mariadb", version) for version in MARIADB]
PLAIN = {"connections": 100, "wait_timeout_above": 3600}


def names(result):
    return {row["name"].replace("-", "_"): row for row in result["settings"] if row["section"] == "mysqld"}


def test_every_parameter_of_the_article_is_there():
    assert {name for name in ARTICLE.split() if name not in BY_NAME} == set()
    assert {"mysqld_safe_socket", "mysqld_safe_nice"} <= set(BY_NAME)


def test_the_entries_are_whole():
    for parameter in CATALOGUE:
        assert parameter.group in catalogue.GROUPS, parameter.name
        assert parameter.compare in ("equal", "at_least", "normalised", "unreadable"), parameter.name
        assert parameter.type in catalogue.PARSERS, parameter.name
        assert parameter.about.endswith((".", ").")), parameter.name
        if parameter.article is not None:
            assert parameter.parse(parameter.article) is not None, parameter.name


@pytest.mark.parametrize(("flavor", "version"), SERVERS)
def test_the_file_of_every_version(flavor, version):
    result = resolve({}, flavor, version, {"memory_bytes": 64 * 2**30}, PLAIN)
    rows = names(result)
    at = versions.parse(version)
    # Names that this version would refuse, or ignore, are not in the file.
    for parameter in CATALOGUE:
        if parameter.section == "mysqld" and not parameter.exists(flavor, at):
            assert parameter.name not in rows, parameter.name
    # Everything of the article is either written or named among the departures.
    left_out = {row["name"].replace("-", "_") for row in result["departures"] if row["value"] is None}
    assert {name for name in ARTICLE.split() if name not in rows and name not in left_out} == set()
    assert all(row["reason"] for row in result["departures"])
    # The redo log's total is the article's in any form.
    if flavor == "mariadb":
        assert rows["innodb_log_file_size"]["value"] == 3 * 128 * 2**20
    elif at >= (8, 0, 30):
        assert rows["innodb_redo_log_capacity"]["value"] == 3 * 128 * 2**20
        assert "innodb_log_file_size" not in rows
    else:
        assert (
            rows["innodb_log_file_size"]["value"] * rows["innodb_log_files_in_group"]["value"]
            == 3 * 128 * 2**20
        )
    # So is the time that binary logs are kept.
    if flavor == "mysql":
        assert rows["binlog_expire_logs_seconds"]["value"] == 7 * 86400
        assert "expire_logs_days" not in rows
    else:
        assert rows["expire_logs_days"]["value"] == 7
    assert rows["transaction_isolation"]["file_value"] == "READ-COMMITTED"
    old = flavor == "mariadb" and at < (11, 1, 1)
    assert rows["transaction_isolation"]["variable"] == ("tx_isolation" if old else "transaction_isolation")


@pytest.mark.parametrize(("flavor", "version"), SERVERS)
def test_articles_values_stay(flavor, version):
    rows = names(resolve({}, flavor, version, {"memory_bytes": 256 * 2**30}, PLAIN))
    expected = {
        "max_connections": 3000,
        "back_log": 600,
        "max_allowed_packet": 32 * 2**20,
        "innodb_buffer_pool_size": 256 * 2**20,
        "innodb_lock_wait_timeout": 120,
        "innodb_flush_log_at_trx_commit": 2,
        "read_rnd_buffer_size": 16 * 2**20,
    }
    assert {name: rows[name]["value"] for name in expected} == expected
    assert {rows[name]["origin"] for name in expected} == {"article"}


@pytest.mark.parametrize(
    ("name", "flavor", "value"),
    [
        ("thread_stack", "mysql", 2**20),
        ("key_buffer_size", "mysql", 8 * 2**20),
        ("key_buffer_size", "mariadb", 8 * 2**20),
        ("max_binlog_cache_size", "mysql", 4 * 2**30),
        ("max_binlog_cache_size", "mariadb", 4 * 2**30),
        ("query_cache_size", "mariadb", 0),
        ("innodb_file_per_table", "mysql", True),
        ("tmpdir", "mariadb", "/var/tmp"),
        ("bind_address", "mysql", "127.0.0.1"),
    ],
)
def test_departures_by_default_with_their_reason(name, flavor, value):
    version = versions.ASSUMED[flavor]
    result = resolve({}, flavor, version, {"memory_bytes": 64 * 2**30}, PLAIN)
    row = names(result)[name]
    assert (row["value"], row["origin"]) == (value, "departure")
    assert len(row["reason"]) > 20
    assert name in {entry["name"] for entry in result["departures"]}


def test_the_stack_is_the_articles_where_it_does_no_harm():
    row = names(resolve({}, "mariadb", "11.8.6", {}, PLAIN))["thread_stack"]
    assert (row["file_value"], row["origin"]) == ("192K", "article")


@pytest.mark.parametrize(
    ("variable", "value", "flavor", "version", "word"),
    [
        ("mysql_query_cache_size", "64M", "mysql", "8.4.6", "removed in MySQL 8.0"),
        ("mysql_query_cache_limit", "4M", "mysql", "9.7.4", "removed in MySQL 8.0"),
        ("mysql_myisam_repair_threads", 1, "mysql", "9.7.4", "removed"),
        ("mysql_innodb_thread_concurrency", 8, "mariadb", "10.6.22", "removed it in 10.6"),
        ("mysql_temptable_max_ram", "1G", "mariadb", "11.8.6", "tmp_table_size"),
        ("mysql_innodb_redo_log_capacity", "384M", "mysql", "8.0.29", "comes with MySQL 8.0.30"),
    ],
)
def test_a_value_for_what_is_gone_is_refused(variable, value, flavor, version, word):
    with pytest.raises(PlanError) as caught:
        resolve({variable: value}, flavor, version, {}, PLAIN)
    (problem,) = caught.value.problems
    assert problem["variable"] == variable
    assert word in problem["message"]
    assert f"remove {variable}" in problem["mend"]


@pytest.mark.parametrize(
    ("user", "flavor", "version", "name", "value"),
    [
        ({"mysql_innodb_log_file_size": "256M"}, "mysql", "9.7.4", "innodb_redo_log_capacity", 768 * 2**20),
        ({"mysql_innodb_log_files_in_group": 2}, "mysql", "8.4.6", "innodb_redo_log_capacity", 256 * 2**20),
        ({"mysql_innodb_log_file_size": "256M"}, "mariadb", "11.8.6", "innodb_log_file_size", 256 * 2**20),
        (
            {"mysql_innodb_log_file_size": "256M", "mysql_innodb_log_files_in_group": 2},
            "mariadb",
            "11.8.6",
            "innodb_log_file_size",
            512 * 2**20,
        ),
        ({"mysql_innodb_redo_log_capacity": "1G"}, "mysql", "9.7.4", "innodb_redo_log_capacity", 2**30),
        ({"mysql_innodb_redo_log_capacity": "1G"}, "mariadb", "10.11.18", "innodb_log_file_size", 2**30),
        ({"mysql_innodb_log_file_size": "256M"}, "mysql", "8.0.29", "innodb_log_file_size", 256 * 2**20),
        ({"mysql_expire_logs_days": 3}, "mysql", "9.7.4", "binlog_expire_logs_seconds", 3 * 86400),
        ({"mysql_expire_logs_days": 3}, "mysql", "8.0.42", "binlog_expire_logs_seconds", 3 * 86400),
        ({"mysql_expire_logs_days": 3}, "mariadb", "11.8.6", "expire_logs_days", 3),
        ({"mysql_binlog_expire_logs_seconds": 60}, "mariadb", "11.8.6", "binlog_expire_logs_seconds", 60),
    ],
)
def test_translation_of_the_users_values(user, flavor, version, name, value):
    row = names(resolve(user, flavor, version, {}, PLAIN))[name]
    assert (row["value"], row["origin"]) == (value, "user")


def test_one_size_of_the_redo_log_at_a_time():
    user = {"mysql_innodb_log_file_size": "256M", "mysql_innodb_redo_log_capacity": "1G"}
    with pytest.raises(PlanError, match="both set the redo log's size"):
        resolve(user, "mysql", "9.7.4", {}, PLAIN)


def test_dynamic_by_version():
    assert names(resolve({}, "mariadb", "10.11.18", {}, PLAIN))["innodb_log_file_size"]["dynamic"] is True
    assert names(resolve({}, "mariadb", "10.6.22", {}, PLAIN))["innodb_log_file_size"]["dynamic"] is False
    assert names(resolve({}, "mysql", "9.7.4", {}, PLAIN))["max_connections"]["dynamic"] is True
    for version, live in (
        ("10.6.15", True),
        ("10.11.18", False),
        ("11.4.3", True),
        ("11.8.6", False),
        ("12.1.2", False),
    ):
        row = names(resolve({}, "mariadb", version, {}, PLAIN))["innodb_buffer_pool_size"]
        assert row["dynamic"] is live, version
    assert names(resolve({}, "mysql", "9.7.4", {}, PLAIN))["thread_stack"]["dynamic"] is False


@pytest.mark.parametrize("parameter", CATALOGUE, ids=lambda parameter: parameter.name)
def test_a_wrong_type_is_refused_with_a_mend_that_passes(parameter):
    flavor = "mysql" if parameter.exists("mysql", (9, 7, 4)) else "mariadb"
    for raw in (["a", "list"], {"a": "dictionary"}):
        with pytest.raises(PlanError) as caught:
            resolve({parameter.role_variable: raw}, flavor, versions.ASSUMED[flavor], {}, PLAIN)
        (problem,) = caught.value.problems
        assert problem["variable"] == parameter.role_variable
        mended = {parameter.role_variable: problem["set_to"][parameter.role_variable]}
        try:
            resolve(mended, flavor, versions.ASSUMED[flavor], {}, PLAIN)
        except PlanError as error:  # what is gone may be named next
            assert re.search("any more", str(error))


@pytest.mark.parametrize("level", ["SNAPSHOT", "READ COMMITTED", "read_committed", 1])
def test_an_isolation_level_that_does_not_exist(level):
    with pytest.raises(PlanError, match="is not one of READ-UNCOMMITTED, READ-COMMITTED"):
        resolve({"mysql_transaction_isolation": level}, "mysql", "9.7.4", {}, PLAIN)


@pytest.mark.parametrize(
    ("flavor", "count", "fine"), [("mariadb", 9, False), ("mariadb", 10, True), ("mysql", 1, True)]
)
def test_least_connections_by_flavor(flavor, count, fine):
    run = lambda: resolve({"mysql_max_connections": count}, flavor, versions.ASSUMED[flavor], {}, {})  # noqa: E731
    if fine:
        assert names(run())["max_connections"]["value"] == count
    else:
        with pytest.raises(PlanError, match="below the smallest value, 10"):
            run()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("9.7.4", (9, 7, 4)),
        ("1:10.11.18-MariaDB-0+deb12u1", (10, 11, 18)),
        ("11.8", (11, 8, 0)),
        ("8.0.42-0ubuntu0.24.04.1", (8, 0, 42)),
    ],
)
def test_versions(text, parsed):
    assert versions.parse(text) == parsed


@pytest.mark.parametrize(
    ("facts", "flavor"),
    [
        ({"distribution": "Debian", "distribution_major_version": "12"}, "mariadb"),
        ({"distribution": "Debian", "distribution_major_version": "13"}, "mariadb"),
        ({"distribution": "Debian", "distribution_release": "sid", "distribution_version": "n/a"}, "mysql"),
        ({"distribution": "Ubuntu", "distribution_major_version": "24"}, "mysql"),
        ({}, None),
    ],
)
def test_the_distributions_own_server(facts, flavor):
    assert versions.from_facts(facts)[0] == flavor


def test_too_old_a_server():
    with pytest.raises(PlanError, match="older than what the catalogue knows"):
        resolve({}, "mysql", "5.7.44", {}, PLAIN)
