"""Scenario `backup`: a table dropped under load comes back to the second before; what must be refused is.

Every refusal is one message, and what the server and the repository hold is the same afterwards.
"""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "molecule" / "backup" / "inventory"
ADDRESSES = {"backup1": "10.89.77.90", "backup3": "10.89.77.92"}
CLIENTS = {"backup1": "mysql", "backup3": "mariadb"}
DATABASE, TARGET = ADDRESSES["backup1"], "10.89.77.91"
PROGRAM = "/usr/local/sbin/db-backup"
FORM = "%Y-%m-%d %H:%M:%S"


def on(address: str, script: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run SCRIPT as root at ADDRESS."""
    keys = ROOT / ".cache" / "sandbox"
    options = (f"UserKnownHostsFile={keys}/known_hosts", "BatchMode=yes", "LogLevel=ERROR")
    words = ["ssh", *itertools.chain(*(("-o", option) for option in options))]
    words += ["-i", f"{keys}/id_ed25519", f"ansible@{address}", "sudo sh -s"]
    done = subprocess.run(words, input=script, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{address}: {script}\n{done.stdout}{done.stderr}"
    return done


def sql(statement: str, host: str = "backup1") -> str:
    return on(ADDRESSES[host], f"{CLIENTS[host]} -BN journal <<'END'\n{statement}\nEND").stdout.strip()


def play(playbook: str, **variables) -> tuple[int, str]:
    """(status, all that was said on one line)"""
    words = [
        "ansible-playbook",
        "-i",
        str(INVENTORY),
        f"playbooks/{playbook}.yml",
        "-e",
        json.dumps(variables),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def state() -> tuple[str, ...]:
    """The server's process, its data directories, its rows and its backups."""
    return (
        on(DATABASE, "systemctl show mysql -p MainPID; ls -d /var/lib/mysql*").stdout,
        sql("CHECKSUM TABLE journal_entry"),
        on(DATABASE, f"{PROGRAM} list").stdout,
    )


class Load:
    """Writers through the web server; what was acknowledged, and when."""

    def __init__(self, host: str, clients: int = 4) -> None:
        self.address = ADDRESSES[host]
        self.acknowledged: dict[str, datetime] = {}
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, rows: int) -> None:
        end = time.monotonic() + 60
        while len(self.acknowledged) < rows:
            assert time.monotonic() < end, f"{len(self.acknowledged)} rows were acknowledged in 60 s"
            self.stop.wait(0.05)

    def _client(self) -> None:
        while not self.stop.wait(0.02):
            reference = uuid.uuid4().hex
            body = json.dumps({"text": "row", "source": "backup", "reference": reference})
            client = http.client.HTTPConnection(self.address, timeout=30)
            try:
                client.request("POST", "/journal/", body, {"Content-Type": "application/json"})
                if client.getresponse().status in (200, 201):
                    self.acknowledged[reference] = datetime.now(UTC).replace(tzinfo=None)
            except (OSError, http.client.HTTPException):
                pass
            finally:
                client.close()


@pytest.mark.parametrize("host", ADDRESSES)
def test_a_dropped_table_comes_back_to_the_second_before(host):
    with Load(host) as load:
        load.wait_for(50)
        on(ADDRESSES[host], "systemctl start db-backup-take")
        load.wait_for(len(load.acknowledged) + 200)
        dropped = datetime.now(UTC).replace(tzinfo=None)
        sql("DROP TABLE journal_entry", host)
    to = dropped.replace(microsecond=0)
    status, said = play("restore", restore_host=host, restore_to=to.strftime(FORM), restore_overwrite=True)
    assert status == 0, said[-3000:]
    there = set(sql("SELECT reference FROM journal_entry WHERE source = 'backup'", host).split())
    due = {reference for reference, moment in load.acknowledged.items() if moment < to}
    assert len(due) > 50
    assert due <= there, f"{len(due - there)} of {len(due)} rows are lost"
    assert on(ADDRESSES[host], "ls -d /var/lib/mysql.before-*").stdout.strip(), "the old data were not kept"
    with Load(host) as load:  # accounts and the site work again
        load.wait_for(20)
    assert set(load.acknowledged) <= set(sql("SELECT reference FROM journal_entry", host).split())


@pytest.mark.parametrize("host", ADDRESSES)
def test_the_restored_server_is_backed_up_and_proven_again(host):
    on(ADDRESSES[host], "systemctl start db-backup-prove")
    proof = json.loads(on(ADDRESSES[host], "cat /var/lib/db-backup/proof.json").stdout)
    assert "why" not in proof
    assert proof["tables"] >= 11


def test_a_copy_that_is_not_what_was_there_is_not_proven():
    """The newest note is taken again with one checksum changed."""
    on(
        DATABASE,
        """set -e
        cd /var/lib/db-backup; cp proof.json proof.kept; cp note.json note.kept
        python3 - <<'END'
import json
note = json.load(open("note.json"))
note["checked"]["checksums"]["journal.django_migrations"] = "1"
json.dump(note, open("note.json", "w"))
END
        """,
    )
    restic = (
        "restic -r sftp:keeper@10.89.77.91:/srv/backup -p /etc/db-backup/password -o sftp.command='ssh -i "
    )
    restic += (
        "/etc/db-backup/ssh_key -o UserKnownHostsFile=/etc/db-backup/known_hosts keeper@10.89.77.91 -s sftp'"
    )
    said = on(DATABASE, f"{restic} backup -q --json --tag note /var/lib/db-backup/note.json").stdout
    snapshot = json.loads(said.splitlines()[-1])["snapshot_id"]
    try:
        done = on(DATABASE, f"{PROGRAM} prove", check=False)
        assert done.returncode == 1
        assert "journal.django_migrations differ" in done.stderr
    finally:
        kept = "cd /var/lib/db-backup; mv proof.kept proof.json; mv note.kept note.json"
        on(DATABASE, f"{restic} forget -q {snapshot}; {kept}")


LATER = (datetime.now(UTC) + timedelta(days=1)).strftime(FORM)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"restore_to": "2001-01-01 00:00:00", "restore_overwrite": True}, "is before the first backup"),
        ({"restore_to": LATER, "restore_overwrite": True}, "is in the future"),
        ({"restore_to": "yesterday", "restore_overwrite": True}, "is no time"),
        ({"restore_host": ""}, "2 servers have backup_repository"),
        ({"restore_host": "backup9"}, "restore_host=backup9: no backups are kept there"),
        ({}, "holds a database; nothing was changed; mend: -e restore_overwrite=true"),
        ({"backup_repository": "", "restore_host": ""}, "0 servers have backup_repository"),
    ],
    ids=[
        "before the first",
        "future",
        "no time",
        "which server",
        "no such server",
        "live database",
        "no repository",
    ],
)
def test_a_restore_is_refused(variables, message):
    before = state()
    status, said = play("restore", **{"restore_host": "backup1"} | variables)
    assert status != 0
    assert message in said
    assert state() == before


@pytest.mark.parametrize(
    ("broken", "mended", "message"),
    [
        (
            "cp -p password kept; echo another >password",
            "mv kept password",
            "is not ours: its password is another one",
        ),
        (
            'cp -p /var/lib/db-backup/repository.json kept; sed -i \'s/"id": "..../"id": "ffff/\' '
            "/var/lib/db-backup/repository.json",
            "mv kept /var/lib/db-backup/repository.json",
            "is not ours: it was ffff",
        ),
        (
            "cp -p config.json kept; sed -i 's/10.89.77.91/10.89.77.95/' config.json",
            "mv kept config.json",
            "cannot be used: ",
        ),
    ],
    ids=["another password", "another repository", "unreachable"],
)
def test_a_target_that_cannot_be_used_is_said(broken, mended, message):
    before = state()
    on(DATABASE, f"cd /etc/db-backup; {broken}")
    try:
        done = on(DATABASE, f"{PROGRAM} take", check=False)
    finally:
        on(DATABASE, f"cd /etc/db-backup; {mended}")
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert state() == before


# All that the role placed, and what its timers do.
PLACED = """
find /etc/db-backup /usr/local/sbin/db-backup /etc/systemd/system/db-backup-* -type f -exec sha256sum {} + |
  sort
systemctl is-active db-backup-take.timer db-backup-logs.timer db-backup-prove.timer
cat /var/lib/db-backup/repository.json
"""


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"backup_repository": "sftp:keeper@10.89.77.95:/srv/backup"}, "cannot be used: "),
        ({"backup_password": "of another team"}, "is not ours: its password is another one"),
        ({"backup_repository": "sftp:keeper@10.89.77.91:/srv/full/repository"}, "is full"),
    ],
    ids=["unreachable", "another password", "full"],
)
def test_a_run_with_a_target_that_cannot_be_used_leaves_the_one_that_can(variables, message):
    before = state(), on(DATABASE, PLACED).stdout
    on(TARGET, "mkdir -p /srv/full; mount -t tmpfs -o size=8k,mode=777 none /srv/full")
    try:
        for _ in range(2):  # the second time as well
            status, said = play("../playbook", **variables)
            assert status != 0
            assert message in said
            assert (state(), on(DATABASE, PLACED).stdout) == before
    finally:
        on(TARGET, "umount /srv/full")


def test_a_backup_by_hand_that_fails_is_one_message():
    on(DATABASE, "cd /etc/db-backup; cp -p config.json kept; sed -i 's/10.89.77.91/10.89.77.95/' config.json")
    try:
        status, said = play("backup")
    finally:
        on(DATABASE, "cd /etc/db-backup; mv kept config.json")
    assert status != 0
    assert "backup1: backup_repository=sftp:keeper@10.89.77.95:/srv/backup cannot be used: " in said
    assert "mend: backup_repository" in said
    assert "non-zero return code" not in said


def test_a_full_target_is_said():
    before = state()
    on(TARGET, "mkdir -p /srv/full; mount -t tmpfs -o size=256k,mode=777 none /srv/full")
    change = "sed -i s,/srv/backup,/srv/full/repository, config.json; "
    change += "cp -p /var/lib/db-backup/repository.json kept.id"
    on(DATABASE, f"cd /etc/db-backup; cp -p config.json kept; {change}")
    try:
        done = on(DATABASE, f"{PROGRAM} setup && {PROGRAM} take", check=False)
    finally:
        on(DATABASE, "cd /etc/db-backup; mv kept config.json; mv kept.id /var/lib/db-backup/repository.json")
        on(TARGET, "umount /srv/full")
    assert done.returncode != 0
    assert "is full" in done.stderr
    assert state() == before
