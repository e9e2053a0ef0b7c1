"""The arithmetic of the whole fleet, against a naive model and by its laws."""

import json
from copy import deepcopy

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mending import mended

from planner import fleet, report, schema

ONE = {"database": ["h"], "application": ["h"], "web": ["h"]}


def groups(count):
    return {"database": ["db"], "application": [f"app{n}" for n in range(count)], "web": ["web"]}


def single(**variables):
    return fleet.plan({"h": variables}, ONE)


def errors(plan):
    return [(entry["host"], entry["variable"]) for entry in plan["errors"]]


# --- the defaults ----------------------------------------------------------------------------------------
def test_one_host_with_the_defaults():
    plan = single(ansible_host="192.0.2.1", budget_host_memory="4G")
    assert plan["ok"], plan["errors"]
    server = plan["servers"]["h"]
    assert server["max_connections"] == 3000
    # (2 workers x 20 x 2 generations, 2 commands, 8 slack), migrate, monitor, backup, administrators
    assert server["connections_total"] == 90 + 3 + 5 + 2 + 10
    limits = {(a["name"], a["host"]): a["max_user_connections"] for a in server["accounts"]}
    assert limits == {("app", "localhost"): 90, ("migrate", "localhost"): 3, ("monitor", "localhost"): 5}
    assert not any(account["require_tls"] for account in server["accounts"])
    assert server["demand"]["listen"] is False
    assert server["demand"]["wait_timeout_above"] == 3600
    application = plan["applications"]["h"]
    assert (application["pool_size"], application["max_overflow"], application["recycle"]) == (20, 0, 3600)
    assert application["database_host"] == ""


def test_an_account_for_each_application_host():
    hosts = {
        "db": {"ansible_host": "192.0.2.9", "mysql_port": 3307},
        "app0": {"ansible_host": "192.0.2.10", "django_app_workers": 4},
        "app1": {"django_app_address": "198.51.100.7", "ansible_host": "192.0.2.11"},
    }
    plan = fleet.plan(hosts, groups(2))
    server = plan["servers"]["db"]
    accounts = {(a["name"], a["host"]): a for a in server["accounts"]}
    assert set(accounts) == {
        ("app", "192.0.2.10"), ("migrate", "192.0.2.10"), ("app", "198.51.100.7"),
        ("migrate", "198.51.100.7"), ("monitor", "localhost"),
    }  # fmt: skip
    assert accounts["app", "192.0.2.10"]["max_user_connections"] == 4 * 20 * 2 + 2 + 16
    assert accounts["app", "192.0.2.10"]["require_tls"]
    assert server["demand"]["listen"] is True
    assert {e["database_host"] for e in plan["applications"].values()} == {"192.0.2.9"}
    assert {e["database_port"] for e in plan["applications"].values()} == {3307}


def test_services_aliases_and_other_users_count():
    plan = single(
        django_app_workers=1,
        django_app_pool_size=4,
        django_app_database_aliases=2,
        django_app_services=[
            {"name": "celery", "processes": 8, "pool_size": 2, "max_overflow": 1},
            {"name": "cron"},
        ],
        mysql_other_users=[{"name": "reports", "connections": 30, "host": "10.0.0.9"}],
        budget_replication_connections=2,
    )
    rows = {(row["who"], row["what"]): row["connections"] for row in plan["servers"]["h"]["connections"]}
    assert rows["app@localhost", "gunicorn"] == 1 * 4 * 2 * 2
    assert rows["app@localhost", "celery"] == 8 * 3 * 2
    assert rows["app@localhost", "cron"] == 1 * 4 * 2
    assert rows["reports@10.0.0.9", ""] == 30
    assert rows["replication", ""] == 2
    assert plan["servers"]["h"]["demand"]["listen"] is True


def test_several_servers():
    hosts = {"db": {}, "db2": {}, "app0": {"budget_server": "db2"}, "app1": {"budget_server": "db"}}
    both = {**groups(2), "database": ["db", "db2"]}
    plan = fleet.plan(hosts, both)
    assert plan["ok"], plan["errors"]
    assert {name: entry["server"] for name, entry in plan["applications"].items()} == {
        "app0": "db2",
        "app1": "db",
    }
    assert all(len(plan["servers"][name]["accounts"]) == 3 for name in ("db", "db2"))


def test_a_server_that_others_run():
    plan = single(mysql_manage=False, mysql_max_connections=500)
    assert plan["ok"]
    assert plan["servers"]["h"]["managed"] is False
    assert "resolved" not in plan["servers"]["h"]
    assert plan["servers"]["h"]["accounts"]


def test_defaults_of_the_roles_are_completed(root):
    known = schema.Checker(root).defaults
    for variable, value in fleet.FALLBACK.items():
        if variable in known:
            assert known[variable] == value, f"{variable}: the planner's fallback is not the role's default"


def test_what_is_not_set_on_a_server_that_others_run_is_said():
    plan = single(mysql_manage=False, mysql_max_connections=500, mysql_back_log=50, mysql_fit=True)
    assert plan["ok"], plan["errors"]
    assert any("change nothing: mysql_back_log, mysql_fit" in text for text in plan["warnings"])


def test_an_address_is_written_as_servers_write_it():
    hosts = {"db": {"ansible_host": "2001:DB8:0:0::1"}, "app0": {"ansible_host": "2001:0db8::2"}}
    plan = fleet.plan(hosts, {**groups(1), "web": []})
    assert plan["applications"]["app0"]["database_host"] == "2001:db8::1"
    assert ("app", "2001:db8::2") in {(a["name"], a["host"]) for a in plan["servers"]["db"]["accounts"]}
    again = {**hosts, "app1": {"ansible_host": "2001:db8:0::2"}}
    assert errors(fleet.plan(again, {**groups(2), "web": []})) == [("app1", "ansible_host")]


def test_binary_logs_that_are_kept_for_ever_are_said():
    plan = single(mysql_flavor="mysql", mysql_expire_logs_days=0)
    assert any("kept for ever" in text for text in plan["warnings"])


def test_what_a_groups_variable_does_on_each_host_is_one_line():
    hosts = {f"app{n}": {"django_app_worker": 4, "django_app_pool_size": 2} for n in range(60)} | {"db": {}}
    plan = fleet.plan(hosts, {**groups(60), "web": []})
    assert len(plan["errors"]) == 60
    assert plan["refusal"].count("\n") == 2
    assert "app0, app1, app2 and 57 more: django_app_worker=4: is unknown" in plan["refusal"]


# --- facts -----------------------------------------------------------------------------------------------
FACTS = {
    "memtotal_mb": 4096,
    "processor_nproc": 2,
    "distribution": "Debian",
    "distribution_major_version": "13",
}


def test_facts_decide_flavor_and_memory():
    plan = single(ansible_facts=FACTS, mysql_flavor="auto")
    resolved = plan["servers"]["h"]["resolved"]
    assert (resolved["flavor"], resolved["version"]) == ("mariadb", "11.8.6")
    assert resolved["memory"]["memory_bytes"] == 4 * 2**30
    assert "assumed" not in plan["servers"]["h"]["assumed"]


def test_declared_memory_counts_where_it_is_less():
    plan = single(ansible_facts=FACTS, budget_host_memory="2G")
    assert plan["servers"]["h"]["resolved"]["memory"]["memory_bytes"] == 2 * 2**30
    plan = single(ansible_facts=FACTS, budget_host_memory="64G")
    assert plan["servers"]["h"]["resolved"]["memory"]["memory_bytes"] == 4 * 2**30


def test_on_paper_what_is_gone_on_one_flavor_only_is_a_warning():
    plan = single(mysql_innodb_thread_concurrency=8)
    assert plan["ok"]
    assert any("if this is MariaDB" in text for text in plan["warnings"])
    assert not single(mysql_innodb_thread_concurrency=8, ansible_facts=FACTS)["ok"]


def test_the_applications_memory_counts_where_it_shares_the_host():
    alone = fleet.plan({"db": {"budget_host_memory": "4G"}, "app0": {}}, groups(1))["servers"]["db"]
    shared = single(budget_host_memory="4G")["servers"]["h"]
    assert alone["demand"]["memory_others"] == 0
    assert shared["demand"]["memory_others"] == 2 * 2 * 128 * 2**20 + fleet.WEB_MEMORY


# --- what is said ----------------------------------------------------------------------------------------
def test_threads_that_outnumber_the_pool_are_said():
    plan = single(django_app_threads=16, django_app_pool_size=4)
    assert plan["ok"]
    assert any("16 threads share 4 connections" in text for text in plan["warnings"])


def test_threads_share_more_with_release_per_statement(monkeypatch):
    checker = schema.Checker()
    monkeypatch.setitem(checker.options, "django_app_pool_release", {"type": "str"})
    for threads, release, said in ((8, "request", True), (8, "statement", False), (17, "statement", True)):
        own = {"django_app_threads": threads, "django_app_pool_size": 4, "django_app_pool_release": release}
        plan = fleet.plan({"h": own}, ONE, checker=checker)
        assert any("threads share" in text for text in plan["warnings"]) is said, (threads, release)


def test_secrets_are_not_in_the_plan():
    plan = single(
        mysql_app_password="hunter2-hunter2", mysql_app_pasword="hunter2-hunter2", mysql_app_user="app"
    )
    assert "hunter2" not in json.dumps(plan)
    plan = single(django_app_secret_key=["hunter2-hunter2"], mysql_tokens="hunter2-hunter2")
    assert not plan["ok"]
    assert "hunter2" not in json.dumps(plan)


def test_the_report_names_every_number_and_where_it_came_from():
    plan = fleet.plan(
        {"h": {"mysql_max_connections": 400, "budget_host_memory": "2G"}},
        ONE,
        origin=lambda host, variable: (
            "group: group_vars/all.yml:7" if variable == "mysql_max_connections" else None
        ),
    )
    text = plan["report"]
    assert "400 (group: group_vars/all.yml:7)" in text
    assert "This works out." in text
    for word in (
        "app@localhost",
        "administrators",
        "LimitNOFILE",
        "redo log",
        "wait_timeout 4200",
        "request 30",
    ):
        assert word in text, word
    assert json.loads(json.dumps(plan)) == plan


def test_many_equal_hosts_are_one_line():
    hosts = {f"app{n}": {"ansible_host": f"10.0.0.{n}", "django_app_pool_size": 2} for n in range(50)}
    plan = fleet.plan(hosts, groups(50))
    assert "x 50 hosts" in plan["report"]
    assert len(plan["report"].splitlines()) < 60
    total = plan["servers"]["db"]["connections_total"]
    assert total == 50 * (2 * 2 * 2 + 2 + 2 + 3) + 17
    assert str(total) in plan["summary"]
    assert report.refusal(plan) == ""


# --- laws ------------------------------------------------------------------------------------------------
SERVICE = st.fixed_dictionaries(
    {"name": st.just("celery"), "processes": st.integers(1, 20), "pool_size": st.integers(1, 10)},
    optional={"max_overflow": st.integers(0, 5), "overlap": st.integers(1, 2)},
)
APPLICATION = st.fixed_dictionaries(
    {},
    optional={
        "django_app_workers": st.integers(1, 32),
        "django_app_threads": st.integers(1, 16),
        "django_app_pool_size": st.integers(1, 50),
        "django_app_pool_max_overflow": st.integers(0, 20),
        "django_app_pool_recycle": st.integers(1, 40000),
        "django_app_release_overlap": st.integers(1, 2),
        "django_app_management_connections": st.integers(0, 10),
        "django_app_services": st.lists(SERVICE, max_size=2),
        "budget_slack_percent": st.integers(0, 30),
    },
)
DATABASE = st.fixed_dictionaries(
    {"mysql_flavor": st.sampled_from(["mysql", "mariadb"])},
    optional={
        "mysql_max_connections": st.integers(20, 6000),
        "budget_host_memory": st.sampled_from(["2G", "8G", "64G", "1024G"]),
        "budget_reserve_connections": st.integers(1, 50),
        "mysql_other_users": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["x", "y"]), "connections": st.integers(1, 200)}),
            max_size=1,
        ),
        "mysql_wait_timeout": st.integers(1, 50000),
    },
)


@st.composite
def inventories(draw):
    count = draw(st.integers(1, 4))
    hosts = {f"app{n}": {"ansible_host": f"10.0.0.{n}", **draw(APPLICATION)} for n in range(count)}
    hosts["db"] = draw(DATABASE)
    hosts["web"] = {}
    return hosts, groups(count)


def naive(hosts, names):
    """The same sum, written as one would by hand."""
    total = 0
    for name in names["application"]:
        host = hosts[name]
        size, over = host.get("django_app_pool_size", 20), host.get("django_app_pool_max_overflow", 0)
        pooled = host.get("django_app_workers", 2) * (size + over) * host.get("django_app_release_overlap", 2)
        for service in host.get("django_app_services", []):
            each = service["pool_size"] + service.get("max_overflow", over)
            pooled += service["processes"] * each * service.get("overlap", 1)
        percent = host.get("budget_slack_percent", 10)
        slack = max(2, pooled * percent // 100 + (1 if pooled * percent % 100 else 0))
        total += pooled + slack + host.get("django_app_management_connections", 2) + 3
    server = hosts["db"]
    total += sum(user["connections"] for user in server.get("mysql_other_users", []))
    return total + 5 + 2 + server.get("budget_reserve_connections", 10)


@given(inventories())
def test_the_sum_is_the_naive_models(given_):
    hosts, names = given_
    assert fleet.plan(hosts, names)["servers"]["db"]["connections_total"] == naive(hosts, names)


@given(inventories())
def test_an_accepted_plan_exceeds_no_limit(given_):
    hosts, names = given_
    plan = fleet.plan(hosts, names)
    assume(plan["ok"])
    server = plan["servers"]["db"]
    limits = sum(account["max_user_connections"] for account in server["accounts"])
    others = sum(user["connections"] for user in hosts["db"].get("mysql_other_users", []))
    assert (
        limits + others + 2 + hosts["db"].get("budget_reserve_connections", 10) <= server["max_connections"]
    )
    memory = server["resolved"]["memory"]
    assert memory["room_bytes"] is None or memory["total_bytes"] <= memory["room_bytes"]
    values = {row["name"]: row["value"] for row in server["resolved"]["settings"]}
    for name in names["application"]:
        entry = plan["applications"][name]
        assert entry["recycle"] < values["wait_timeout"]
        assert entry["longest_request"] < plan["web"]["web"]["read_timeout"]
        assert entry["connections"] < entry["max_user_connections"]
    if "mysql_max_connections" in hosts["db"]:
        assert values["max_connections"] == hosts["db"]["mysql_max_connections"]


@given(inventories(), st.integers(1, 30), st.data())
def test_a_larger_pool_never_turns_a_refusal_into_a_pass(given_, more, data):
    hosts, names = given_
    assume(not fleet.plan(hosts, names)["ok"])
    name = data.draw(st.sampled_from(names["application"]))
    variable = data.draw(st.sampled_from(["django_app_pool_size", "django_app_pool_max_overflow"]))
    hosts = deepcopy(hosts)
    hosts[name][variable] = hosts[name].get(variable, fleet.FALLBACK[variable]) + more
    assert not fleet.plan(hosts, names)["ok"]


@given(inventories())
def test_the_mend_of_a_refusal_makes_it_pass(given_):
    hosts, names = given_
    plan = fleet.plan(hosts, names)
    assume(not plan["ok"])
    for _ in range(3):
        hosts = mended(hosts, plan)
        plan = fleet.plan(hosts, names)
        if plan["ok"]:
            return
    raise AssertionError(plan["errors"])


@pytest.mark.parametrize("count", [10, 1000])
def test_a_thousand_hosts_are_quick(count):
    import time

    hosts = {
        f"app{n}": {"ansible_host": f"10.0.{n >> 8}.{n & 255}", "django_app_pool_size": 1}
        for n in range(count)
    }
    begin = time.process_time()
    plan = fleet.plan(hosts, groups(count))
    took = time.process_time() - begin
    assert plan["servers"]["db"]["connections_total"] == count * (4 + 2 + 2 + 3) + 17
    assert took < 2
