"""Several database hosts as one server: what a node must carry, what is refused, where a cluster begins."""

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import cluster, fleet, gtid, units

GROUPS = {"database": ["d1", "d2", "d3"], "application": ["a1", "a2"], "web": ["w"]}
HOSTS = {
    "d1": {"ansible_host": "192.0.2.1", "mysql_topology": "galera"},
    "d2": {"ansible_host": "192.0.2.2", "mysql_topology": "galera"},
    "d3": {"ansible_host": "192.0.2.3", "mysql_topology": "galera"},
    "a1": {"ansible_host": "192.0.2.4"},
    "a2": {"ansible_host": "192.0.2.5"},
    "w": {},
}


def planned(groups=None, **changes):
    hosts = deepcopy(HOSTS)
    for name, variables in changes.items():
        hosts.setdefault(name, {}).update(variables)
    return fleet.plan(hosts, groups or GROUPS)


def test_every_node_carries_the_whole_fleet():
    plan = planned()
    assert plan["ok"], plan["errors"]
    alone = fleet.plan(
        {name: own for name, own in HOSTS.items() if name != "d1"} | {"d1": {"ansible_host": "192.0.2.1"}},
        {**GROUPS, "database": ["d1"]},
    )
    for name in GROUPS["database"]:
        server = plan["servers"][name]
        assert (
            server["connections_total"]
            == alone["servers"]["d1"]["connections_total"] + cluster.JOIN_CONNECTIONS
        )
        assert server["accounts"] == alone["servers"]["d1"]["accounts"]
        assert server["demand"]["memory_others"] == 128 * units.MIB
        assert server["disk"]["cluster_bytes"] == 128 * units.MIB
        assert server["demand"]["listen"]
        assert server["resolved"]["flavor"] == "mariadb"
    assert [node["name"] for node in plan["cluster"]["nodes"]] == GROUPS["database"]
    assert len({node["server_id"] for node in plan["cluster"]["nodes"]}) == 3


def group(**changes):
    topology = {name: {"mysql_topology": "group_replication"} for name in GROUPS["database"]}
    return planned(
        **{name: topology.get(name, {}) | changes.get(name, {}) for name in {**topology, **changes}}
    )


def test_group_replication_is_planned_by_the_same_rules():
    plan, other = group(), planned()
    for name in GROUPS["database"]:
        server = plan["servers"][name]
        assert server["connections_total"] == other["servers"][name]["connections_total"]
        assert server["demand"]["memory_others"] == 128 * units.MIB + cluster.CLONE_BUFFERS
        assert server["disk"]["cluster_bytes"] == 900 * 10 * units.KIB
        assert server["resolved"]["flavor"] == "mysql"
        own = [entry for entry in server["accounts"] if entry["role"] == "cluster"]
        assert [entry["host"] for entry in own] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        assert all(entry["require_tls"] for entry in own)
    assert not [entry for entry in other["servers"]["d1"]["accounts"] if entry["role"] == "cluster"]


def test_the_group_has_one_name_of_its_own_for_each_cluster():
    name = group()["cluster"]["uuid"]
    assert name == group(d2={"django_app_threads": 3})["cluster"]["uuid"]
    assert name != group(d1={"mysql_cluster_name": "shop"})["cluster"]["uuid"]


def test_hosts_that_have_the_other_engine_are_told_the_other_word():
    facts = {"distribution": "Debian", "distribution_major_version": "13"}
    plan = group(**{name: {"ansible_facts": facts} for name in GROUPS["database"]})
    assert (
        "this is MariaDB" in plan["refusal"] and "mend: set mysql_topology to galera, or" in plan["refusal"]
    )


SETS = st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(1, 30), min_size=1))


def written(wanted):
    return ",\n".join(f"{source}:{':'.join(map(str, numbers))}" for source, numbers in wanted.items())


@given(SETS, SETS)
def test_sets_of_transactions_are_compared_as_sets(one, other):
    inside = all(numbers <= one.get(source, set()) for source, numbers in other.items())
    assert gtid.covers(written(one), written(other)) == inside
    assert gtid.count(written(one)) == sum(map(len, one.values()))


def test_sets_of_transactions_as_the_server_writes_them():
    text = "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5:7,\n6b1d:tag:2:4-6:3"
    assert gtid.count(text) == 11
    assert gtid.covers(text, "3e11fa47-71ca-11e1-9e33-c80aa9429562:2-4, 6b1d:tag:2-6")
    assert not gtid.covers(text, "6b1d:2")  # without the tag it is another one
    assert gtid.covers(text, "") and not gtid.covers("", text)


def test_the_application_reaches_it_by_its_own_proxy():
    plan = planned(a2={"mysql_cluster_proxy_port": 4000})
    first, second = (plan["applications"][name] for name in ("a1", "a2"))
    assert (first["database_host"], first["database_port"]) == ("127.0.0.1", 3316)
    proxies = plan["cluster"]["proxies"]
    assert second["database_port"] == proxies["a2"]["port"] == 4000
    assert proxies["a1"]["maxconn"] == first["max_user_connections"] + 3
    assert first["server"] == second["server"] == "d1"


def test_an_application_on_a_node_uses_the_proxy_too():
    plan = planned({**GROUPS, "application": ["d2"]})
    assert plan["ok"], plan["errors"]
    assert plan["applications"]["d2"]["database_host"] == "127.0.0.1"
    assert {a["host"] for a in plan["servers"]["d1"]["accounts"] if a["role"] == "app"} == {"192.0.2.2"}
    assert plan["servers"]["d2"]["demand"]["memory_others"] > plan["servers"]["d1"]["demand"]["memory_others"]


def test_one_server_is_as_before():
    plan = fleet.plan({"h": {}}, {"database": ["h"], "application": ["h"], "web": ["h"]})
    assert plan["cluster"] == {}
    assert plan["servers"]["h"]["cluster"] is False


def test_what_does_not_fit_one_node_is_refused_for_each():
    plan = planned(**{name: {"mysql_max_connections": 100} for name in GROUPS["database"]})
    refused = {e["host"] for e in plan["errors"] if e["variable"] == "mysql_max_connections"}
    assert refused == set(GROUPS["database"])


def test_nodes_of_two_releases_are_refused():
    facts = {"distribution": "Debian", "distribution_major_version": "13"}
    old = {**facts, "distribution_major_version": "12"}
    plan = planned(d1={"ansible_facts": facts}, d2={"ansible_facts": facts}, d3={"ansible_facts": old})
    assert "d3: mysql_topology=galera: MariaDB 10.11.18, and d1 has 11.8.6" in plan["refusal"]


# --- where a cluster begins ------------------------------------------------------------------------------
ORDER = ["a", "b", "c"]
BARE = {"running": True, "status": "", "uuid": "", "been": "", "seqno": "", "tables": 0, "size": 0}
MEMBER = {**BARE, "status": "Primary", "uuid": "u", "been": "u", "size": 3}
DOWN = {**BARE, "running": False, "been": "u", "seqno": "7", "tables": None}
GROUPED = {**MEMBER, "group": "1", "gtid": "u:1-9"}
OUT = {**BARE, "been": "u", "seqno": "u:1-9", "gtid": "u:1-9"}
LEFT = {**BARE, "tables": 9, "gtid": "u:1-7"}  # by remove_node.yml
CASES = [
    ("three bare hosts", [BARE, BARE, BARE], "a", ""),
    ("a single server with data, and two new ones", [BARE, {**BARE, "tables": 9}, BARE], "b", ""),
    ("a cluster that runs", [MEMBER, MEMBER, MEMBER], "", ""),
    ("one member, two that shall join", [MEMBER, BARE, BARE], "", ""),
    ("the first is the new one", [BARE, MEMBER, MEMBER], "", ""),
    ("one is down, and was in it", [MEMBER, DOWN, MEMBER], "", ""),
    ("two with data", [{**BARE, "tables": 1}, {**BARE, "tables": 1}, BARE], "", "each has data of its own"),
    ("foreign data would be removed", [MEMBER, MEMBER, {**BARE, "tables": 3}], "", "c: has data that is not"),
    ("another cluster's node", [MEMBER, MEMBER, {**BARE, "been": "x"}], "", "c: has data that is not"),
    ("two clusters", [MEMBER, {**MEMBER, "uuid": "v", "been": "v"}, BARE], "", "2 different clusters"),
    ("Group Replication, all in it", [GROUPED] * 3, "", ""),
    ("one of it is down and behind", [GROUPED, {**OUT, "gtid": "u:1-7"}, GROUPED], "", ""),
    ("one of it is ahead", [GROUPED, {**OUT, "gtid": "u:1-10"}, GROUPED], "", "b: has data that is not"),
    ("one left it and comes back", [GROUPED, LEFT, GROUPED], "", "b: has data that is not"),
    ("begun twice", [GROUPED, {**GROUPED, "group": "2"}, BARE], "", "2 different clusters"),
    ("all of it are out", [OUT] * 3, "", "none of them serves"),
    ("a host left the inventory alone", [{**MEMBER, "size": 4}] * 3, "", "4 nodes, and the group database 3"),
    ("all are down", [DOWN] * 3, "", "none of them serves"),
    ("no majority", [{**MEMBER, "status": "non-Primary"}, BARE, BARE], "", "none of them serves"),
]  # fmt: skip


@pytest.mark.parametrize(("states", "bootstrap", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_where_it_begins(states, bootstrap, says):
    decision = cluster.decide(dict(zip(ORDER, states, strict=True)), ORDER)
    assert decision["bootstrap"] == bootstrap
    assert (says in decision["refusal"]) if says else not decision["refusal"], decision


def test_the_writer_comes_last_and_the_first_node_first():
    running = cluster.decide(dict(zip(ORDER, [MEMBER, MEMBER, MEMBER], strict=True)), ORDER)
    assert running["order"] == ["c", "b", "a"]
    begun = cluster.decide(dict(zip(ORDER, [BARE, {**BARE, "tables": 9}, BARE], strict=True)), ORDER)
    assert begun["order"] == ["b", "c", "a"]


def test_it_is_never_decided_from_a_part():
    assert "nothing is known" in cluster.decide({"a": BARE, "b": BARE}, ORDER)["refusal"]


# --- where a cluster begins again ------------------------------------------------------------------------
def node(position, uuid="u", serves=False):
    return {"serves": serves, "uuid": uuid, "position": position, "said": f"seqno {position}"}


A, B, C = node("7"), node("9"), node("8")
SERVES, BLANK = node("9", serves=True), node("", uuid="")
RECOVERIES = [
    ("nothing said", [A, B, C], {}, "", "the most advanced is b; mend"),
    ("nothing said, all equal", [B, B, B], {}, "", "the most advanced is a or b or c"),
    ("the most advanced", [A, B, C], {"begin_at": "b"}, "b", ""),
    ("numbers, not words", [node("10"), B, C], {"begin_at": "a"}, "a", ""),
    ("not the most advanced", [A, B, C], {"begin_at": "c"}, "", "(seqno 8; b: seqno 9)"),
    ("one serves", [SERVES, B, C], {"begin_at": "b"}, "", "a: serves in a majority"),
    ("one is away", [A, None, C], {"begin_at": "c"}, "", "-e recover_without=b"),
    ("one is lost", [A, None, C], {"begin_at": "c", "without": ["b"]}, "c", ""),
    ("the lost one serves", [A, SERVES, C], {"begin_at": "c", "without": ["b"]}, "", "b: serves"),
    ("one has no data", [BLANK, B, C], {"begin_at": "b"}, "b", ""),
    ("the one without data", [BLANK, B, C], {"begin_at": "a"}, "", "is not the most advanced"),
    ("nobody has data", [BLANK] * 3, {"begin_at": "a"}, "", "no node has data of a cluster"),
    ("one does not know", [node(""), B, C], {"begin_at": "b"}, "", "a: how far it came is not known"),
    ("two clusters", [node("7", uuid="v"), B, C], {"begin_at": "b"}, "", "2 different clusters"),
    ("not a node", [A, B, C], {"begin_at": "d"}, "", "is no host of the group database"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("states", "said", "begin", "says"), [c[1:] for c in RECOVERIES], ids=[c[0] for c in RECOVERIES]
)
def test_where_it_begins_again(states, said, begin, says):
    found = {name: state for name, state in zip(ORDER, states, strict=True) if state}
    decision = cluster.recover(found, ORDER, "galera", **said)
    assert decision["begin"] == begin
    assert (says in decision["refusal"]) if says else not decision["refusal"], decision
    assert len(decision["table"]) == 3
    if begin:
        assert decision["join"] == [n for n in found if n != begin and n not in said.get("without", ())]


GTIDS = [
    ("the one that has all", ["u:1-7", "u:1-9", "u:1-8"], "b", ""),
    ("what was received counts", ["u:1-7,u:8-9", "u:1-8", "u:1-8"], "a", ""),
    ("behind", ["u:1-7", "u:1-9", "u:1-8"], "c", "is not the most advanced"),
    ("each has its own", ["u:1-9,v:1", "u:1-9,w:1", "u:1-9"], "a", "each has writes that another lacks"),
    ("one does not start", ["u:1-9", "", "u:1-9"], "a", "b: how far it came is not known"),
]


@pytest.mark.parametrize(
    ("positions", "said", "says"), [case[1:] for case in GTIDS], ids=[case[0] for case in GTIDS]
)
def test_where_a_group_begins_again(positions, said, says):
    found = dict(zip(ORDER, map(node, positions), strict=True))
    decision = cluster.recover(found, ORDER, "group_replication", begin_at=said)
    assert (says in decision["refusal"]) if says else decision["begin"] == said, decision


def test_backups_are_taken_from_one_node_that_writes_last():
    every = {name: {"backup_repository": "/srv/backup"} for name in GROUPS["database"]}
    for plan, keeper in (
        (planned(**every), "d3"),
        (group(**every), "d3"),
        (planned(d1={"backup_repository": "/srv/backup"}, d2={"backup_repository": "/srv/backup"}), "d2"),
        (planned(), ""),
    ):
        assert plan["ok"], plan["errors"]
        assert plan["cluster"]["backups_from"] == keeper
        assert plan["backed_up"] == [keeper] * bool(keeper)
        for name, server in plan["servers"].items():
            assert bool(server["backup"]) == server["demand"]["binary_log"] == (name == keeper)


def reading(lag=2, **changes):
    every = {name: {"mysql_cluster_replica_max_lag": lag} for name in HOSTS}
    return planned(**{name: own | changes.get(name, {}) for name, own in every.items()})


def test_a_pool_that_reads_from_other_nodes_is_counted_on_each_of_them():
    services = [{"name": "celery", "processes": 2, "pool_size": 3}]
    services.append({"name": "report", "pool_size": 1, "aliases": 2})
    plan = reading(a1={"django_app_services": services})
    assert plan["ok"], plan["errors"]
    rows = [row for row in plan["servers"]["d3"]["connections"] if row["host"] == "a1"]
    sums = {row["what"]: (row["sum"], row["connections"]) for row in rows}
    assert sums["gunicorn"] == ("2 x (20 + 0) x 2 aliases x 2 generations", 160)
    assert sums["celery"] == ("2 x (3 + 0) x 2 aliases", 12)
    assert sums["report"] == ("1 x (1 + 0) x 3 aliases", 3)
    assert sums["management commands"] == ("set aside", 4)
    alone = reading(0, a1={"django_app_services": services})["applications"]
    assert plan["applications"]["a1"]["connections"] == alone["a1"]["connections"] + 80 + 6 + 1
    assert plan["cluster"]["proxies"]["a1"]["maxconn"] > plan["applications"]["a1"]["connections"]


def test_who_reads_knows_where_and_what_to_watch():
    plan = reading(a2={"mysql_cluster_replica_port": 3399})
    assert plan["cluster"]["replica_max_lag"] == 2
    assert [plan["applications"][name]["replica_port"] for name in ("a1", "a2")] == [3317, 3399]
    assert plan["cluster"]["proxies"]["a2"]["replica_port"] == 3399
    assert plan["applications"]["a1"]["replica_renew_file"] == "/run/mysql-cluster/replicas"
    off = planned()["applications"]["a1"]
    assert (off["replica_port"], off["replica_renew_file"]) == (0, "")


def test_a_single_server_has_nobody_to_read_from_and_goes_on():
    hosts = {"d1": {}, "a1": {"mysql_cluster_replica_max_lag": 2}, "a2": {"mysql_cluster_replica_max_lag": 0}}
    plan = fleet.plan(hosts, {**GROUPS, "database": ["d1"]})
    assert plan["ok"], plan["errors"]
    told = [text for text in plan["warnings"] if "no other node to read from" in text]
    assert [text.partition(":")[0] for text in told] == ["a1"]
    assert plan["applications"]["a1"]["replica_port"] == 0


def test_who_measures_the_lag_needs_a_connection_of_its_own():
    few = {name: {"mysql_admin_connections": 2} for name in GROUPS["database"]}
    assert planned(**few)["ok"]
    assert "agent keeps 2 of them" in reading(**few)["refusal"]
    assert reading(0, **few)["ok"]
