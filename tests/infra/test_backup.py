"""A backup counts once it was restored: is the last proof of each backed-up server recent?"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from declared import connect, load, names_in

BACKED_UP = [
    name for name in names_in("database") if (load()["hosts"][name]["plan"].get("server") or {}).get("backup")
]
TIMERS = tuple(f"db-backup-{verb}.timer" for verb in ("take", "logs", "prove"))


@pytest.mark.parametrize("name", BACKED_UP)
def test_a_backup_was_restored_lately(name, compare):
    most = load()["hosts"][name]["plan"]["server"]["backup"]["max_age_hours"]
    host = connect(name)
    found = host.run("cat /var/lib/db-backup/proof.json")
    proof = json.loads(found.stdout) if found.rc == 0 else {}
    if not proof.get("proven"):
        compare("proven restore", f"within {most} h", proof.get("why", "none"))
        return
    proven = datetime.fromisoformat(proof["proven"]).replace(tzinfo=UTC)
    hours = (datetime.now(UTC) - proven).total_seconds() / 3600
    compare("proven restore", f"within {most} h", f"{hours:.1f} h ago", same=hours <= most)
    compare("last proof", "", proof.get("why", ""))
    for timer in TIMERS:
        compare(timer, "active", host.run("systemctl is-active %s", timer).stdout.strip())
