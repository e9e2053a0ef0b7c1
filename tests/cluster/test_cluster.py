"""The writer of a cluster is killed while the real application writes: no acknowledged row is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from nodes import (
    INVENTORY,
    WRITERS,
    Fewest,
    GroupReplication,
    Load,
    healthy,
    play,
    report,
    wait_for,
    writer,
)

BACK_WITHIN = 10  # seconds without an acknowledged write that a run may show


def test_one_cluster_one_writer(cluster):
    nodes = cluster["database"]
    assert healthy(nodes)
    assert len({node.engine.name(node) for node in nodes}) == 1
    with Load(cluster["web"][0].address):
        (one,) = writer(nodes)
    able = [node for node in nodes if node.engine.writable(node)]
    assert able == ([one] if one.engine is GroupReplication else nodes)


def test_between_nodes_everything_is_encrypted(cluster):
    for node in cluster["database"]:
        assert node.engine.encrypted(node), node.name


FIND = """
read -r secret
grep -rlF -e "$secret" /etc /var/log /var/lib/mysql/binlog.* /var/lib/mysql/relay-bin* 2>/dev/null
case "$(ps -eo args)" in *"$secret"*) echo "a process" ;; esac
journalctl --no-pager | grep -cF -e "$secret" | grep -v '^0$'
:
"""


def test_the_password_between_nodes_can_be_read_nowhere(cluster):
    secrets_dir = Path(INVENTORY) / ".secrets"
    if cluster["database"][0].engine is not GroupReplication:
        pytest.skip("Galera's nodes know each other by certificates")
    for node in cluster["database"]:
        known, hidden = (
            node.must(
                "sh", "-c", FIND, text=(secrets_dir / f"mysql_{name}_password").read_text().strip() + "\n"
            )
            for name in ("operator", "cluster")
        )
        assert known.split() == ["/etc/mysql/operator.cnf"], node.name
        assert hidden == "", node.name


def under_load(cluster, what: str, strike, seen=0) -> None:
    """STRIKE the node that writes while clients write: all are back afterwards, and nothing is lost."""
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    with Load(cluster["web"][0].address) as load:
        (struck,) = writer(nodes)
        others = [node for node in nodes if node is not struck]
        hit = time.monotonic()
        strike(struck, others)
        wait_for(lambda: healthy(nodes))
        back = time.monotonic() - hit
        if struck.engine.returns:
            wait_for(lambda: writer(nodes) == [nodes[0]])
        later = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > later + 50)
        assert len(writer(nodes)) == 1
    report(f"{what}, all nodes are back after {back:.1f} s", load, hit)
    assert healthy(nodes)
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < BACK_WITHIN
    assert len(load.failed) <= seen, load.failed


def test_the_writer_dies_under_load(cluster):
    def kill(struck, others):
        struck.must("systemctl", "kill", "--signal=KILL", struck.engine.unit)
        wait_for(lambda: writer(others))

    under_load(cluster, "kill -9 of the writer", kill, seen=WRITERS)  # in flight when it went


def test_the_writer_is_stopped_politely_under_load(cluster):
    under_load(
        cluster,
        "polite restart of the writer",
        lambda struck, _: struck.must("systemctl", "restart", struck.engine.unit),
    )


def test_another_node_is_told_to_write_under_load(cluster):
    if cluster["database"][0].engine is not GroupReplication:
        pytest.skip("only Group Replication can be told")

    def switch(struck, others):
        told = others[-1].sql("SELECT @@server_uuid")[0][0]
        struck.sql(f"SELECT group_replication_set_as_primary('{told}')")
        wait_for(lambda: writer(others) == [others[-1]])

    under_load(cluster, "another node is told to write", switch)


def test_a_change_that_needs_restarts_goes_from_node_to_node_under_load(cluster):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    started = {node: node.sql("SELECT @@back_log")[0][0] for node in nodes}
    assert set(started.values()) != {"321"}
    with Load(cluster["web"][0].address) as load:
        hit = time.monotonic()
        with Fewest(nodes) as fewest:
            status, said = play("playbook.yml", INVENTORY, mysql_back_log=321)
        if nodes[0].engine.returns:
            wait_for(lambda: writer(nodes) == [nodes[0]])
    report(f"a change with restarts, {time.monotonic() - hit:.0f} s", load, hit)
    assert status == 0, said[-3000:]
    assert {node.sql("SELECT @@back_log")[0][0] for node in nodes} == {"321"}
    assert fewest.serving == len(nodes) - 1, "never two nodes at once"
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < BACK_WITHIN
    assert not load.failed


def test_a_running_cluster_is_not_taken_apart(cluster):
    nodes = cluster["database"]
    alone = {"mysql_topology": "standalone", "budget_server": nodes[0].name}
    status, said = play("playbook.yml", INVENTORY, "--check", **alone)
    assert status != 0
    assert "this server is a node of a G" in said, said[-3000:]
    assert healthy(nodes)
