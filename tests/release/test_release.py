"""A release that fails harms nobody, and what is allowed goes through (scenario `release`).

Every case runs the real playbook while a load goes through the web host: no request may fail, and afterwards
both hosts have the release that they should have, with nothing left half-way.
"""

from __future__ import annotations

import itertools
import time

import fleet
import pytest
import reference_releases

APP1, APP2 = fleet.APPLICATIONS
_numbers = itertools.count(int(time.time()))


def next_number() -> int:
    """Of a release that the hosts have never had, whatever ran here before."""
    return next(_numbers)


@pytest.fixture
def load():
    """No request fails, whatever the test does."""
    with fleet.Load() as load:
        yield load
    assert load.failures == []
    assert load.answers > 0
    assert load.stored() == (len(load.acknowledged), 0)


def state() -> dict[str, str]:
    """What a release that failed must leave alone, on each host."""
    script = r"""
    readlink /srv/django-app/current
    for release in /srv/django-app/releases/*; do
      [ -e "$release/release.json" ] || echo "half-way: $release"
    done
    find /etc/django-app /etc/systemd/system -type f -exec sha256sum {} + | sort
    systemctl is-active django-app.service django-app.socket || :
    systemctl is-active django-app-trial.service django-app-next.service || :
    find /srv/django-app /etc/django-app -name '*.part'
    """
    return {host: fleet.on(host, script) for host in fleet.APPLICATIONS}


@pytest.fixture
def before():
    """Both hosts have the same release in service."""
    if len({fleet.release_of(host) for host in fleet.APPLICATIONS}) > 1:
        fleet.make(next_number())
        run = fleet.deploy()
        assert run.status == 0, run.text[-3000:]
    return state()


def stopped(before: dict, *words: str, **variables) -> fleet.Play:
    """What lies in SOURCE is refused with WORDS, and all is as it was."""
    run = fleet.deploy(**variables)
    assert run.status != 0
    for word in words:
        assert word in run.text, run.text[-3000:]
    assert state() == before
    return run


def migrates(operation: str):
    def change(folder):
        reference_releases.add_migration(folder, f"0002_{next_number()}", operation)

    return change


def appends(path: str, text: str):
    def change(folder):
        file = folder / path
        file.write_text(file.read_text() + text)

    return change


def test_a_migration_that_takes_away_is_stopped(before, load):
    fleet.make(next_number(), migrates("migrations.RemoveField('entry', 'source')"))
    stopped(before, "journal_entry.source disappears", "django_app_allow_unsafe_migrations: [journal.0002_")


def test_a_migration_that_cannot_be_judged_goes_when_it_is_named(before, load):
    name = f"0002_{next_number()}"
    fleet.make(next_number())
    operation = "migrations.RunSQL('DELETE FROM journal_entry WHERE id = 0', migrations.RunSQL.noop)"
    reference_releases.add_migration(fleet.SOURCE, name, operation)
    stopped(before, f"journal.{name}", "what RunSQL does")
    run = fleet.deploy(django_app_allow_unsafe_migrations=[f"journal.{name}"])
    assert run.status == 0, run.text[-3000:]
    assert fleet.sql(f"SELECT 1 FROM django_migrations WHERE name = '{name}'") == "1"


def test_a_migration_gives_up_on_a_lock(before, load):
    """A report reads the table for minutes; what alters it must not make all others wait that long."""
    report = "START TRANSACTION; SELECT COUNT(*) FROM journal_entry; SELECT SLEEP(300);"
    fleet.on(fleet.WEB, f"systemd-run --unit=report mariadb journal -e '{report}'")
    try:
        fleet.make(
            next_number(), migrates("migrations.AddField('entry', 'never', models.IntegerField(null=True))")
        )
        stopped(before, "Lock wait timeout exceeded")
    finally:
        fleet.on(fleet.WEB, "systemctl stop report")
    assert load.slowest < 15


DIES = """
import os, sys, threading
if "gunicorn" in sys.modules:
    threading.Timer(5, {how}).start()
"""


@pytest.mark.parametrize(
    "how",
    ["os.kill, (os.getppid(), 9)", "os._exit, (1,)"],
    ids=["gunicorn dies after 5 s", "a worker dies after 5 s"],
)
def test_what_dies_later(how, before, load):
    fleet.make(next_number(), appends("config/wsgi.py", DIES.format(how=how)))
    stopped(before, "died", f"left alone, for they would have come after it: {APP2}")


NOT_THERE = f"""
import socket, sys
if "gunicorn" in sys.modules and socket.gethostname() == {APP2!r}:
    raise OSError("no licence here")
"""


def test_a_failure_on_the_second_host_is_told_from_the_first(before, load):
    fleet.make(next_number(), appends("config/wsgi.py", NOT_THERE))
    run = fleet.deploy()
    assert run.status != 0
    assert "no licence here" in run.text
    now = state()
    assert now[APP2] == before[APP2]
    assert now[APP1] != before[APP1]  # it serves the new release; the old code and the new work side by side
    back = fleet.play("playbooks/rollback.yml").finish()
    assert back.status == 0, back.text[-3000:]
    assert fleet.release_of(APP1) == fleet.release_of(APP2)


def test_what_cannot_be_installed(before, load):
    def change(folder):
        (folder / "their").mkdir()
        (folder / "their" / "setup.py").write_text("raise RuntimeError('no wheel today')\n")
        (folder / "requirements.txt").write_text("./their\n")

    fleet.make(next_number(), change)
    words = ("cannot be built", "no wheel today", "stays in service")
    stopped(before, *words, django_app_requirements=["requirements.txt"])


@pytest.mark.parametrize(
    "folder",
    ["/srv/django-app/releases", "/etc/django-app"],
    ids=["while it is built", "while it is handed over"],
)
def test_a_full_disk(folder, before, load):
    """The folder as a file system of its own, as large as what is in it."""
    fleet.on(
        APP1,
        f"""
        set -e
        rm -rf /root/kept && cp -a {folder} /root/kept
        pages=$(find /root/kept -type f -size +0 -printf '%i %s\\n' | sort -u |
                awk '{{ n += int(($2 + 4095) / 4096) }} END {{ print n }}')
        mount -t tmpfs -o size=$((pages * 4096)),mode=755 tmpfs {folder}
        cp -a /root/kept/. {folder}/
        """,
    )
    try:
        fleet.make(next_number())
        stopped(before, "No space left on device", django_app_threads=7)
    finally:
        fleet.on(APP1, f"umount -l {folder}; rm -rf /root/kept")
