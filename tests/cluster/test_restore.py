"""A cluster's backups: taken from a node that does not write, restored to before a table was dropped."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from nodes import INVENTORY, Load, healthy, play, wait_for, writer

PROGRAM = "/usr/local/sbin/db-backup"


@pytest.fixture(scope="module")
def keeper(cluster):
    return cluster["database"][-1]


def restore(**variables) -> tuple[int, str]:
    return play("playbooks/restore.yml", INVENTORY, **variables)


def snapshot(nodes) -> list:
    """What a refused restore must leave as it was."""
    return [
        node.must("sh", "-c", "ls -d /var/lib/mysql*; systemctl show mariadb mysql -p MainPID")
        for node in nodes
    ]


def test_one_node_that_does_not_write_keeps_them(cluster, keeper):
    if keeper.engine.returns:  # a group may have chosen it to write
        assert writer(cluster["database"]) != [keeper]
    for node in cluster["database"]:
        there = node.run("systemctl", "is-active", "db-backup-take.timer").stdout.strip()
        assert (there == "active") == (node is keeper), node.name


def test_refused_without_the_confirming_variable_or_with_a_node_away(cluster, keeper):
    nodes = cluster["database"]
    before = snapshot(nodes)
    status, said = restore()
    assert status != 0
    assert "restore_overwrite=true" in said, said[-3000:]
    done = keeper.run(PROGRAM, "restore", "--overwrite")
    assert done.returncode != 0
    assert "mend: playbooks/restore.yml" in done.stderr
    assert snapshot(nodes) == before
    away = nodes[1]
    away.must("systemctl", "stop", away.engine.unit)
    try:
        wait_for(lambda: keeper.engine.whole(keeper, len(nodes) - 1))
        before = snapshot(nodes)
        status, said = restore(restore_overwrite=True)
        assert status != 0
        assert "bring the others back first" in said, said[-3000:]
        assert snapshot(nodes) == before
    finally:
        away.must("systemctl", "start", away.engine.unit)
    wait_for(lambda: healthy(nodes))


def test_a_dropped_table_comes_back_on_every_node(cluster, keeper):
    nodes, site = cluster["database"], cluster["web"][0]
    keeper.must(PROGRAM, "logs")  # as its timer does; a whole copy, where these data are new on this node
    clock = time.time() - time.monotonic()
    with Load(site.address) as load:
        wait_for(lambda: len(load.acknowledged) > 200)
        second = int(time.time()) + 1
        wait_for(lambda: time.time() >= second + 0.2)
        writer(nodes)[0].sql("DROP TABLE journal.journal_entry")
    kept = [ref for ref, moment in load.acknowledged.items() if clock + moment < second]
    assert len(kept) > 100
    to = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
    start = time.monotonic()
    status, said = restore(restore_to=to, restore_overwrite=True)
    assert status == 0, said[-4000:]
    print(f"\nmeasured: {len(kept)} rows, restored on {len(nodes)} nodes in {time.monotonic() - start:.0f} s")
    assert healthy(nodes)
    for node in nodes:
        found = {row[0] for row in node.sql("SELECT reference FROM journal.journal_entry")}
        assert not set(kept) - found, f"{node.name} lacks {len(set(kept) - found)} rows"
    with Load(site.address) as load:
        wait_for(lambda: len(load.acknowledged) > 20)
    assert not load.failed, load.failed[:3]


def test_the_restored_cluster_is_backed_up_and_proven(keeper):
    assert json.loads(keeper.must(PROGRAM, "prove"))["tables"] > 5


def test_a_node_that_got_a_copy_of_all_data_begins_a_new_history(cluster, keeper):
    known = json.loads(keeper.must(PROGRAM, "list"))
    assert "until" in json.loads(keeper.must(PROGRAM, "logs"))
    keeper.engine.copy_anew(keeper)
    wait_for(lambda: healthy(cluster["database"]))
    assert "taken" in json.loads(keeper.must(PROGRAM, "logs"))
    notes = json.loads(keeper.must(PROGRAM, "list"))
    assert notes[-1]["timeline"] not in {note["timeline"] for note in known}
    keeper.must(PROGRAM, "prove")
