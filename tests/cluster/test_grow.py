"""A single server with data becomes a cluster, by two more hosts and one variable, while clients write."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from nodes import INVENTORY, Load, healthy, listed, play, report, wait_for


def bare(node) -> None:
    """As a host on which the server is installed, and nothing more."""
    node.run("systemctl", "disable", "--now", "mysql-cluster-agent.service", "mysql-cluster-agent.socket")
    drop_in = f"/etc/systemd/system/{node.engine.unit}.service.d/cluster.conf"
    node.must("systemctl", "stop", node.engine.unit)
    node.must("rm", "-f", node.engine.configuration, drop_in)
    node.must("systemctl", "daemon-reload")
    node.engine.empty(node)


def alone(name: str) -> Path:
    """The inventory before, with this one node in the group database; beside the other, for its secrets."""
    found = listed()
    hostvars = found["_meta"]["hostvars"]
    hostvars[name]["mysql_topology"] = "standalone"
    groups = {
        group: {"hosts": {host: {} for host in own["hosts"] if group != "database" or host == name}}
        for group, own in found.items()
        if "hosts" in own and group != "sandbox"
    }
    kept = {host for group in groups.values() for host in group["hosts"]}
    hosts = {host: own for host, own in hostvars.items() if host in kept}
    file = Path(INVENTORY) / "alone.json"
    file.write_text(json.dumps({"all": {"hosts": hosts, "children": groups}}))
    return file


def test_a_single_server_becomes_a_cluster_under_load(cluster):
    nodes = cluster["database"]
    for node in nodes:
        bare(node)
    before = alone(nodes[0].name)
    try:
        status, said = play("playbook.yml", str(before))
    finally:
        before.unlink()
    assert status == 0, said[-3000:]
    with Load(cluster["web"][0].address) as load:
        start = time.monotonic()
        status, said = play("playbook.yml", INVENTORY)
        took = time.monotonic() - start
        wait_for(lambda: healthy(nodes))
        later = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > later + 50)
    report(f"a single server became {len(nodes)} nodes in {took:.0f} s", load, start)
    assert status == 0, said[-3000:]
    for node in nodes:
        assert load.lost(node) == set(), node.name
    status, said = play("playbook.yml", INVENTORY)
    assert status == 0, said[-3000:]
    assert "changed=0" in said and not re.search("changed=[1-9]", said)
