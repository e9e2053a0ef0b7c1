"""`playbooks/upgrade.yml` onto live data (scenario `backup`): refused without a proof, else done under load.

apt really offers something newer on both hosts (newer_packages.py).
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest
from test_backup import ADDRESSES, CLIENTS, FORM, ROOT, Load, on, play, sql

sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import newer_packages

UNITS = {"backup1": "mysql", "backup3": "mariadb"}
PROOF = "/var/lib/db-backup/proof.json"
VERSIONS = (
    r"""dpkg-query -W -f '${source:Package} ${Package} ${Version}\n' | grep -E '^(mysql|mariadb)' | sort"""
)


def newer() -> dict[str, tuple[str, ...]]:
    """{host: (the version that is installed, the one that apt offers)}"""
    found = {}
    for host, address in ADDRESSES.items():
        script = newer_packages.offer(f"{UNITS[host]}-server")
        found[host] = tuple(on(address, script).stdout.splitlines()[-1].split())
        assert found[host][1].endswith("-0raised")
    return found


@pytest.fixture(scope="module")
def offered():
    try:
        yield newer()
    finally:
        for address in ADDRESSES.values():
            on(address, newer_packages.TAKE_AWAY)


def standing() -> dict[str, str]:
    """Packages, processes and rows of both hosts."""
    return {
        host: on(
            address, f"{VERSIONS}; systemctl show {UNITS[host]} -p MainPID; sha256sum /etc/mysql/*/*.cnf"
        ).stdout
        + sql("CHECKSUM TABLE journal_entry", host)
        for host, address in ADDRESSES.items()
    }


def old_proof() -> str:
    moment = (datetime.now(UTC) - timedelta(days=60)).strftime(FORM)
    return f"""printf '%s' '{json.dumps({"proven": moment})}' >{PROOF}"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (f"rm -f {PROOF}", "no backup was ever proven"),
        (old_proof(), "the last proven backup is of "),
        (f"printf '%s' '{{}}' >{PROOF}", "no backup was ever proven"),
    ],
    ids=["never", "too old", "failed"],
)
def test_refused_without_a_proven_backup(how, message, offered):
    before = standing()
    on(ADDRESSES["backup3"], f"cp -p {PROOF} /root/proof.kept; {how}")
    try:
        status, said = play("upgrade")
    finally:
        on(ADDRESSES["backup3"], f"mv /root/proof.kept {PROOF}")
    assert status != 0
    assert "backup3: " + message in said
    assert "-e upgrade_without_backup=true" in said
    assert standing() == before


def upgraded(hosts: list[str], offered: dict, **variables) -> None:
    loads = {host: Load(host) for host in ADDRESSES}
    with loads["backup1"], loads["backup3"]:
        for load in loads.values():
            load.wait_for(50)
        status, said = play("upgrade", **variables)
        assert status == 0, said[-3000:]
        for load in loads.values():
            load.wait_for(len(load.acknowledged) + 50)
    for host in ADDRESSES:
        due = set(loads[host].acknowledged)
        there = set(sql("SELECT reference FROM journal_entry WHERE source = 'backup'", host).split())
        assert due <= there, f"{host}: {len(due - there)} of {len(due)} rows are lost"
    for host in hosts:
        rows = [line.split() for line in on(ADDRESSES[host], VERSIONS).stdout.splitlines()]
        assert {version for _, name, version in rows if name.startswith(f"{CLIENTS[host]}-server")} == {
            offered[host][1]
        }


def test_done_where_it_was_said_that_no_backup_is_needed(offered):
    """The proof of one host is away; both are upgraded, and their data are the live ones."""
    on(ADDRESSES["backup3"], f"mv {PROOF} /root/proof.kept")
    try:
        upgraded(list(ADDRESSES), offered, upgrade_without_backup=True)
    finally:
        on(ADDRESSES["backup3"], f"[ -e {PROOF} ] || cp -p /root/proof.kept {PROOF}")


def test_done_with_a_proven_backup_and_then_nothing_is_left_to_do(offered):
    """Once more one patch level further, by the proofs that are there."""
    again = newer()
    assert {host: pair[0] for host, pair in again.items()} == {
        host: pair[1] for host, pair in offered.items()
    }
    upgraded(list(ADDRESSES), again)
    before = standing()
    status, said = play("upgrade")
    assert status == 0, said[-3000:]
    assert "changed=0" in said and not re.search("changed=[1-9]", said)
    assert standing() == before
