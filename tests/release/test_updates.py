"""Unattended security updates, on a host with the server: what the security archive has, but the server's."""

from __future__ import annotations

import fleet
import newer_packages
import pytest

VERSION = "dpkg-query -W -f '${Version}' %s"
# What the timer starts; once a day, as a stamp says.
TODAY = """set -e
systemctl start --wait apt-daily-upgrade.service
rm -f /var/lib/apt/periodic/upgrade-stamp
systemctl start --wait apt-daily-upgrade.service
"""
STARTED = "systemctl show mariadb -p InvocationID"


@pytest.fixture
def updates():
    run = fleet.deploy(updates_unattended=True)
    assert run.status == 0, run.text[-3000:]
    try:
        yield run
    finally:
        run = fleet.deploy(updates_unattended=False)
    assert run.status == 0, run.text[-3000:]
    for host in fleet.FLEET.hosts:
        assert fleet.on(host, "ls /etc/apt/apt.conf.d | grep managed || :") == ""
    assert fleet.deploy(updates_unattended=False).changes() == set()


def test_a_security_update_comes_by_itself_and_the_servers_does_not(updates):
    assert fleet.deploy(updates_unattended=True).changes() == set()
    seen = fleet.play("playbooks/verify.yml", variables={"updates_unattended": True}).finish()
    assert seen.status == 0, seen.text[-3000:]
    try:
        have, newer = fleet.on(fleet.WEB, newer_packages.offer("mariadb-server", more="hostname")).split()[
            -2:
        ]
        assert newer != have and newer.endswith("-0raised")
        started = fleet.on(fleet.WEB, STARTED)
        fleet.on(fleet.WEB, TODAY)
        assert fleet.on(fleet.WEB, VERSION % "hostname").endswith("-0raised")
        assert fleet.on(fleet.WEB, VERSION % "mariadb-server") == have
        assert fleet.on(fleet.WEB, VERSION % "mariadb-server-core") == have
        assert fleet.on(fleet.WEB, STARTED) == started
    finally:
        fleet.on(fleet.WEB, newer_packages.TAKE_AWAY)


def test_verify_tells_where_it_is_not_as_declared(updates):
    """A later file lets the server's packages in, and all of the distribution's updates."""
    late = "/etc/apt/apt.conf.d/99-zz-theirs"
    wide = 'Unattended-Upgrade::Origins-Pattern { "origin=Debian"; };'
    fleet.on(fleet.WEB, f"printf '%s\\n' '#clear Unattended-Upgrade::Package-Blacklist;' '{wide}' >{late}")
    try:
        seen = fleet.play("playbooks/verify.yml", variables={"updates_unattended": True}).finish()
    finally:
        fleet.on(fleet.WEB, f"rm {late}")
    assert seen.status != 0
    assert "mariadb-server is left out" in seen.text
    assert "updates come from" in seen.text
