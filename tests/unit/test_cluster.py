"""Several database hosts as one server: what a node must carry, what is refused, where a cluster begins."""

from copy import deepcopy

import pytest

from planner import cluster, fleet, units

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
BARE = {"running": True, "status": "", "uuid": "", "been": "", "seqno": "", "tables": 0}
MEMBER = {**BARE, "status": "Primary", "uuid": "u", "been": "u"}
DOWN = {**BARE, "running": False, "been": "u", "seqno": "7", "tables": None}
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
    ("all are down", [DOWN] * 3, "", "none of them serves"),
    ("no majority", [{**MEMBER, "status": "non-Primary"}, BARE, BARE], "", "none of them serves"),
]  # fmt: skip


@pytest.mark.parametrize(("states", "bootstrap", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_where_it_begins(states, bootstrap, says):
    decision = cluster.decide(dict(zip(ORDER, states, strict=True)), ORDER)
    assert decision["bootstrap"] == bootstrap
    assert (says in decision["refusal"]) if says else not decision["refusal"], decision


def test_it_is_never_decided_from_a_part():
    assert "nothing is known" in cluster.decide({"a": BARE, "b": BARE}, ORDER)["refusal"]
