"""A node leaves for good, and a bare host joins, while clients write."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from nodes import INVENTORY, Load, healthy, listed, play, wait_for


@contextlib.contextmanager
def without(name: str):
    """The inventory in which this node is to leave, beside the other: secrets are looked for there."""
    found = listed()
    groups = {
        group: {"hosts": {key: {} for key in own["hosts"]}} for group, own in found.items() if "hosts" in own
    }
    hosts = {host: {} for host in groups["database"]["hosts"] if host != name}
    groups |= {"database": {"hosts": hosts}, "database_leaving": {"hosts": {name: {}}}}
    file = Path(INVENTORY) / "leaving.json"
    file.write_text(json.dumps({"all": {"hosts": found["_meta"]["hostvars"], "children": groups}}))
    try:
        yield str(file)
    finally:
        file.unlink()


def test_a_node_leaves_and_a_bare_host_joins_under_load(cluster):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    leaving = nodes[1]
    stay = [node for node in nodes if node is not leaving]
    with Load(cluster["web"][0].address) as load:
        start = time.monotonic()
        with without(leaving.name) as inventory:
            status, said = play("playbooks/remove_node.yml", inventory, mysql_cluster_size=2)
        assert status == 0, said[-3000:]
        left = time.monotonic() - start
        assert healthy(stay)
        assert leaving.run("systemctl", "is-active", leaving.engine.unit).stdout.strip() == "inactive"
        status, said = play("playbooks/add_node.yml", INVENTORY)  # it may have been written to alone
        assert status != 0
        assert "has data that is not this cluster's" in said, said[-3000:]
        assert healthy(stay)
        leaving.engine.empty(leaving)
        start = time.monotonic()
        status, said = play("playbooks/add_node.yml", INVENTORY)
        assert status == 0, said[-3000:]
        joined = time.monotonic() - start
        wait_for(lambda: healthy(nodes))
    print(
        f"\nmeasured: left in {left:.0f} s, joined in {joined:.0f} s, {len(load.acknowledged)} rows, slowest "
        f"{load.slowest:.1f} s, failed {load.failed[:3]}"
    )
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert not load.failed, load.failed
