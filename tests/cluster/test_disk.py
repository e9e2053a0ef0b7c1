"""A node whose disk is full does not hold up the others; where too few of them have room, none is ended."""

from __future__ import annotations

import shlex
import time

import disk
from nodes import WRITERS, Load, at_once, healthy, on_small_disks, report, wait_for, writer

LASTS = 20  # seconds
WITHOUT = 15  # seconds without an acknowledged write: noticed, ended, another one takes over


def running(node) -> str:
    return node.must("systemctl", "show", "--property=MainPID", "--value", node.engine.unit)


def test_the_writers_disk_is_full_under_load(cluster):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    with Load(cluster["web"][0].address):
        (struck,) = writer(nodes)
    with on_small_disks([struck]):
        wait_for(lambda: healthy(nodes))
        if not struck.engine.returns:
            own = struck.sql("SELECT @@server_uuid")[0][0]
            struck.sql(f"SELECT group_replication_set_as_primary('{own}')")
        before = running(struck)
        with Load(cluster["web"][0].address) as load:
            wait_for(lambda: writer(nodes) == [struck])
            hit = time.monotonic()
            struck.must("sh", text=disk.FILL.format(client=struck.engine.client, lasts=LASTS))
            freed = time.monotonic()
            # it was ended, and came back by itself
            wait_for(lambda: running(struck) != before and healthy(nodes))
            back = time.monotonic() - freed
            later = len(load.acknowledged)
            wait_for(lambda: len(load.acknowledged) > later + 50)
        report(f"full disk of the writer, back {back:.0f} s after there was room", load, hit)
    wait_for(lambda: healthy(nodes))
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < WITHOUT  # others took over while it had no room
    assert len(load.failed) <= WRITERS, load.failed


def test_where_the_others_are_no_majority_with_room_it_stays(cluster):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    full = nodes[:2]
    with on_small_disks(full):
        wait_for(lambda: healthy(nodes))
        before = [running(node) for node in full]
        since = [node.must("date", "+%s").strip() for node in full]
        at_once(lambda node: node.must("sh", "-c", disk.TAKE), full)
        try:
            for node, start in zip(full, since, strict=True):
                log = f"journalctl --unit=mysql-cluster-agent --since=@{start} --no-pager"
                wait_for(lambda node=node, log=log: "it stays" in node.must(*shlex.split(log)), 30)
            assert [running(node) for node in full] == before
        finally:
            at_once(lambda node: node.must("sh", "-c", disk.FREE), full)
        wait_for(lambda: healthy(nodes))  # the one that has room again first may let the other be ended
