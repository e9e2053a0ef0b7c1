"""What the environment says becomes Django's settings: config/environment.py, on its own."""

import importlib.util
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "app"
spec = importlib.util.spec_from_file_location("app_environment", APP / "config" / "environment.py")
environment = importlib.util.module_from_spec(spec)
spec.loader.exec_module(environment)

SOCKET = {
    "DATABASE_SOCKET": "/run/mysqld/mysqld.sock",
    "DATABASE_NAME": "journal",
    "DATABASE_USER": "app",
    "DATABASE_PASSWORD": "secret",
}
NETWORK = {"DATABASE_HOST": "192.0.2.20", "DATABASE_PORT": "3307", "DATABASE_NAME": "journal"}


def test_a_socket_is_a_host_with_a_slash_and_has_no_port():
    found = environment.database({**SOCKET, "DATABASE_PORT": "3306"})
    assert (found["HOST"], found["PORT"]) == ("/run/mysqld/mysqld.sock", "")
    assert found["ENGINE"] == "django.db.backends.mysql"


def test_connections_are_never_kept_by_threads():
    theirs = {"default": {"CONN_MAX_AGE": 600}, "other": {"ENGINE": "x", "CONN_MAX_AGE": None, "NAME": "n"}}
    found = environment.databases(SOCKET, theirs)
    assert {entry["CONN_MAX_AGE"] for entry in found.values()} == {0}
    assert found["other"]["NAME"] == "n"


def test_over_the_network_certificate_and_name_are_checked():
    options = environment.database({**NETWORK, "DATABASE_CA": "/etc/x/ca.pem"})["OPTIONS"]
    assert options["ssl"] == {"ca": "/etc/x/ca.pem"}
    assert options["ssl_mode"] == "VERIFY_IDENTITY"


def test_behind_a_proxy_a_connection_is_waited_for_less_long():
    proxied = {**NETWORK, "DATABASE_HOST": "127.0.0.1"}
    assert environment.database(proxied)["OPTIONS"]["connect_timeout"] == 3
    assert environment.database(NETWORK)["OPTIONS"]["connect_timeout"] == 5
    said = environment.database({**proxied, "DATABASE_CONNECT_TIMEOUT": "7"})
    assert said["OPTIONS"]["connect_timeout"] == 7


def test_a_socket_needs_no_certificate():
    assert "ssl" not in environment.database({**SOCKET, "DATABASE_CA": "/etc/x/ca.pem"})["OPTIONS"]


def test_their_own_choices_stay():
    theirs = {
        "ENGINE": "django_prometheus.db.backends.mysql",
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"charset": "latin1", "isolation_level": "repeatable read"},
    }
    found = environment.database(SOCKET, theirs)
    assert found["ENGINE"] == theirs["ENGINE"]
    assert found["ATOMIC_REQUESTS"] is True
    assert found["OPTIONS"]["charset"] == "latin1"
    assert found["OPTIONS"]["isolation_level"] == "repeatable read"


def test_theirs_is_not_changed_in_place():
    theirs = {"default": {"ENGINE": "django.db.backends.mysql", "OPTIONS": {"charset": "utf8mb4"}}}
    before = repr(theirs)
    environment.databases({**NETWORK, "DATABASE_CA": "/ca.pem", "DATABASE_LOCK_WAIT_TIMEOUT": "5"}, theirs)
    assert repr(theirs) == before


def test_another_engine_gives_way():
    assert environment.database(SOCKET, {"ENGINE": "django.db.backends.sqlite3"})["ENGINE"].endswith("mysql")


@pytest.mark.parametrize("said", ["REPEATABLE-READ", "repeatable read"])
def test_isolation_as_the_server_or_as_django_writes_it(said):
    found = environment.database({**SOCKET, "DATABASE_ISOLATION": said})
    assert found["OPTIONS"]["isolation_level"] == "repeatable read"


def test_read_committed_where_nobody_said_anything():
    assert environment.database(SOCKET)["OPTIONS"]["isolation_level"] == "read committed"


@pytest.mark.parametrize(
    ("theirs", "env", "expected"),
    [
        ("", {}, ""),
        ("SET x = 1", {}, "SET x = 1"),
        (
            "",
            {"DATABASE_LOCK_WAIT_TIMEOUT": "20"},
            "SET SESSION innodb_lock_wait_timeout = 20, lock_wait_timeout = 20",
        ),
        (
            "SET sql_mode = 'ANSI'",
            {"DATABASE_LOCK_WAIT_TIMEOUT": "7"},
            "SET sql_mode = 'ANSI', innodb_lock_wait_timeout = 7, lock_wait_timeout = 7",
        ),
        # Cannot be joined into one statement: theirs is what they asked for.
        (
            "SET SESSION TRANSACTION READ ONLY",
            {"DATABASE_LOCK_WAIT_TIMEOUT": "7"},
            "SET SESSION TRANSACTION READ ONLY",
        ),
        ("CALL greet()", {"DATABASE_LOCK_WAIT_TIMEOUT": "7"}, "CALL greet()"),
    ],
)
def test_init_command(theirs, env, expected):
    assert environment.init_command(theirs, env) == expected


def test_a_statement_limit_speaks_to_both_servers():
    command = environment.init_command("", {"DATABASE_STATEMENT_TIMEOUT": "5"})
    assert "/*M! max_statement_time = 5, */" in command
    assert "/*!80000 max_execution_time = 5000, */" in command
    assert command.startswith("SET SESSION ") and not command.rstrip().endswith("*/")


@pytest.mark.parametrize(
    "env",
    [
        {"DATABASE_LOCK_WAIT_TIMEOUT": "0"},
        {"DATABASE_LOCK_WAIT_TIMEOUT": "soon"},
        {"DATABASE_STATEMENT_TIMEOUT": "-1"},
    ],
)
def test_what_cannot_be_used_names_the_variable(env):
    with pytest.raises(environment.EnvironmentProblem, match=next(iter(env))):
        environment.init_command("", env)


def test_pool_options_are_the_articles_where_nothing_is_said():
    expected = {"pool_size": 20, "max_overflow": 0, "recycle": 3600, "timeout": 10, "connect_retry": 10}
    assert environment.pool_options({}) == expected
    assert environment.pool_pessimistic({}) is True


def test_pool_options_from_the_environment():
    said = {"POOL_SIZE": "5", "POOL_MAX_OVERFLOW": "2", "POOL_RECYCLE": "60", "POOL_TIMEOUT": "3"}
    expected = {"pool_size": 5, "max_overflow": 2, "recycle": 60, "timeout": 3, "connect_retry": 3}
    assert environment.pool_options(said) == expected
    followed = environment.pool_options({"POOL_RENEW_FILE": "/run/mysql-cluster/writer"})
    assert followed["renew_file"] == "/run/mysql-cluster/writer"
    assert environment.pool_pessimistic({"POOL_PESSIMISTIC": "false"}) is False


def test_neither_true_nor_false():
    with pytest.raises(environment.EnvironmentProblem, match="POOL_PESSIMISTIC"):
        environment.pool_pessimistic({"POOL_PESSIMISTIC": "perhaps"})


READS = {
    **NETWORK,
    "DATABASE_REPLICA_PORT": "3317",
    "DATABASE_LOCK_WAIT_TIMEOUT": "20",
    "POOL_REPLICA_RENEW_FILE": "/run/mysql-cluster/replicas",
}


def test_replica_is_default_by_another_door_and_read_only():
    found = environment.databases(READS)
    ours, read = found["default"], found["replica"]
    assert (ours["PORT"], read["PORT"]) == ("3307", "3317")
    assert {key for key in ours if ours[key] != read[key]} == {"PORT", "OPTIONS"}
    assert "transaction_read_only" not in ours["OPTIONS"]["init_command"]
    assert read["OPTIONS"]["init_command"].startswith("SET SESSION transaction_read_only = 1, innodb_lock")
    assert read["OPTIONS"]["pool"] == {"renew_file": "/run/mysql-cluster/replicas"}
    assert read["TEST"] == {"MIRROR": "default"}


def test_a_replica_of_the_project_keeps_its_choices():
    theirs = {"default": {}, "replica": {"OPTIONS": {"init_command": "SET x = 1;", "pool": {"timeout": 2}}}}
    options = environment.databases(READS, theirs)["replica"]["OPTIONS"]
    assert options["init_command"].startswith("SET x = 1, transaction_read_only = 1")
    assert options["pool"] == {"timeout": 2, "renew_file": "/run/mysql-cluster/replicas"}
    unpooled = environment.databases(READS, {"replica": {"OPTIONS": {"pool": False}}})
    assert unpooled["replica"]["OPTIONS"]["pool"] is False


def test_without_reads_from_other_nodes_nothing_is_added():
    assert list(environment.databases(NETWORK)) == ["default"]
    assert (
        environment.databases(NETWORK, {"replica": {"HOST": "elsewhere"}})["replica"]["HOST"] == "elsewhere"
    )
    assert environment.routers(["mine.Router"], NETWORK) == ["mine.Router"]


def test_the_projects_routers_are_asked_first():
    ours = "djorm_pool.routers.ReplicaRouter"
    assert environment.routers(["mine.Router"], READS) == ["mine.Router", ours]
    assert environment.routers([ours], READS) == [ours]


def test_a_session_that_could_write_to_a_replica_is_refused():
    theirs = {"default": {"OPTIONS": {"init_command": "CALL greet()"}}}
    with pytest.raises(environment.EnvironmentProblem, match="CALL greet"):
        environment.databases(READS, theirs)
