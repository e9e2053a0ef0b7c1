"""A cluster of which no node serves begins again where it came furthest, and with every acknowledged row."""

from __future__ import annotations

import re
import time

import pytest
from nodes import INVENTORY, GroupReplication, Load, healthy, kill, play, wait_for


def recover(**variables: str) -> tuple[int, str]:
    return play("playbooks/recover_cluster.yml", INVENTORY, **variables)


def serves(node) -> bool:
    states = node.engine.states(node)
    return states[:1] == ["ONLINE"] and 2 * states.count("UNREACHABLE") < len(states)


@pytest.fixture
def nodes(cluster):
    found = cluster["database"]
    if found[0].engine is not GroupReplication:
        pytest.skip("Galera's nodes find each other again by themselves")
    wait_for(lambda: healthy(found), 300)
    return found


def again(nodes, load, refused=()) -> None:
    """None serves: what the playbook says, what it refuses, and that it brings all back with every row."""
    wait_for(lambda: not any(serves(node) for node in nodes))
    status, said = recover()
    assert status != 0
    best = re.search(r"the most advanced is ([\w.-]+)", said)
    assert best, said[-3000:]
    for node in refused:
        status, said = recover(recover_from=node.name)
        assert status != 0
        assert "is not the most advanced" in said, said[-3000:]
        assert not any(serves(node) for node in nodes)
    start = time.monotonic()
    status, said = recover(recover_from=best.group(1))
    assert status == 0, said[-3000:]
    wait_for(lambda: healthy(nodes), 300)
    took = time.monotonic() - start
    print(f"\nmeasured: {len(load.acknowledged)} rows acknowledged, all back {took:.0f} s after the word")
    assert len({node.engine.name(node) for node in nodes}) == 1
    for node in nodes:
        assert load.lost(node) == set(), node.name


def writes(cluster) -> None:
    with Load(cluster["web"][0].address) as load:
        wait_for(lambda: len(load.acknowledged) > 100)
    assert not load.failed, load.failed[:3]


def test_a_group_that_serves_is_not_begun_again(nodes):
    before = nodes[0].engine.name(nodes[0])
    status, said = recover(recover_from=nodes[0].name)
    assert status != 0
    assert "serves in a majority" in said, said[-3000:]
    assert healthy(nodes)
    assert nodes[0].engine.name(nodes[0]) == before


def test_two_of_three_are_killed(cluster, nodes):
    with Load(cluster["web"][0].address) as load:
        wait_for(lambda: len(load.acknowledged) > 200)
        kill(nodes[:2])
    again(nodes, load)
    writes(cluster)


def test_all_are_killed_and_one_was_away_before(cluster, nodes):
    """What it lacks is not thrown away: the group does not begin on it."""
    *rest, away = nodes
    away.must("systemctl", "stop", away.engine.unit)
    wait_for(lambda: healthy(rest))
    with Load(cluster["web"][0].address) as load:
        wait_for(lambda: len(load.acknowledged) > 200)
        kill(rest)
    again(nodes, load, refused=[away])
    writes(cluster)


def test_all_three_are_killed(cluster, nodes):
    with Load(cluster["web"][0].address) as load:
        wait_for(lambda: len(load.acknowledged) > 200)
        kill(nodes)
    again(nodes, load)
    writes(cluster)
