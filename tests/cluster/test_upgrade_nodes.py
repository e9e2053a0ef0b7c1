"""`playbooks/upgrade.yml` on a cluster: one node after the other, while clients write.

apt really offers something newer on each node (newer_packages.py).
"""

from __future__ import annotations

import re
import sys
import time

import pytest
from nodes import INVENTORY, ROOT, Fewest, Load, at_once, healthy, play, report, wait_for, writer

sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import newer_packages


def server(node) -> str:
    return f"{node.engine.client}-server"


def version(node) -> str:
    return node.must("dpkg-query", "-W", "-f", "${Version}", server(node))


@pytest.fixture(scope="module")
def offered(cluster):
    """{node: the version that apt offers}"""
    nodes = cluster["database"]

    def offer(node):
        return node.must("sh", "-s", text=newer_packages.offer(server(node))).splitlines()[-1].split()[1]

    try:
        yield dict(zip(nodes, at_once(offer, nodes), strict=True))
    finally:
        at_once(lambda node: node.must("sh", "-s", text=newer_packages.TAKE_AWAY), nodes)


def test_refused_while_a_node_is_away(cluster, offered):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    before = [version(node) for node in nodes]
    nodes[1].must("systemctl", "stop", nodes[1].engine.unit)
    try:
        status, said = play("playbooks/upgrade.yml", INVENTORY, upgrade_without_backup=True)
    finally:
        nodes[1].must("systemctl", "start", nodes[1].engine.unit)
    assert status != 0
    assert "nodes are in the cluster" in said, said[-3000:]
    assert [version(node) for node in nodes] == before
    wait_for(lambda: healthy(nodes))


def test_one_node_after_the_other_under_load(cluster, offered):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    with Load(cluster["web"][0].address) as load:
        hit = time.monotonic()
        with Fewest(nodes) as fewest:
            status, said = play("playbooks/upgrade.yml", INVENTORY, upgrade_without_backup=True)
        if nodes[0].engine.returns:
            wait_for(lambda: writer(nodes) == [nodes[0]])
    report("upgraded node by node", load, hit)
    assert status == 0, said[-3000:]
    assert {node: version(node) for node in nodes} == offered
    assert fewest.serving == len(nodes) - 1, "never two nodes at once"
    assert healthy(nodes)
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert not load.failed
    status, said = play("playbooks/upgrade.yml", INVENTORY, upgrade_without_backup=True)
    assert status == 0, said[-3000:]
    assert "changed=0" in said and not re.search("changed=[1-9]", said)
