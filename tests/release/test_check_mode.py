"""What check mode announces is what the run then changes, on hosts that are deployed (scenario `release`)."""

from __future__ import annotations

from pathlib import Path

import fleet
import hosts
import pytest
from test_release import migrates, next_number


def a_release_with_a_migration():
    number = next_number()
    fleet.make(number, migrates(f"migrations.AddField('entry', 'x{number}', models.IntegerField(null=True))"))


@pytest.mark.parametrize(
    ("variables", "change"),
    [
        ({}, None),
        ({}, lambda: fleet.make(next_number())),
        ({}, a_release_with_a_migration),
        ({"django_app_threads": 6, "django_app_pool_size": 12}, None),
        ({"mysql_table_open_cache": 1500}, None),
        ({"mysql_innodb_log_buffer_size": "24M"}, None),
        ({"web_client_max_body": "12m"}, None),
        ({"mysql_extra_settings": {"local_infile": True}}, None),
        ({"mysql_databases": [{"name": "journal"}, {"name": "archive"}]}, None),
        ({"mysql_app_privileges": ["SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE"]}, None),
        ({"mysql_unit_sandbox": False, "web_unit_sandbox": False}, None),
        ({"django_app_environment": {"MOTTO": "announced"}}, None),
        ({}, lambda: fleet.on(fleet.WEB, "systemctl stop nginx; chmod 644 /etc/mysql/operator.cnf")),
        (
            {},
            lambda: fleet.on(
                fleet.WEB, "systemctl disable --now mariadb; rm /etc/nginx/conf.d/django-app.conf"
            ),
        ),
        ({"web_client_max_body": "13m", "mysql_max_connections": 290, "django_app_workers": 3}, None),
    ],
    ids=[
        "nothing",
        "a release",
        "a release with a migration",
        "threads and pool",
        "a dynamic parameter",
        "a parameter that wants a restart",
        "the proxy",
        "a variable outside the catalogue",
        "a database",
        "a privilege",
        "no sandbox",
        "the environment",
        "a service stopped and a mode changed by hand",
        "the server stopped and a file removed by hand",
        "all three",
    ],
)
def test_announced_is_done(variables, change):
    settled = fleet.deploy()
    assert settled.status == 0, settled.text[-3000:]
    if change:
        change()
    announced = fleet.play(*fleet.DEPLOY, "--check", "--diff", variables=variables).finish()
    assert announced.status == 0, announced.text[-3000:]
    done = fleet.deploy(**variables)
    assert done.status == 0, done.text[-3000:]
    assert announced.changes() == done.changes()
    assert bool(done.changes()) == bool(variables or change)


# All that a deployment could leave on a host, but for what changes by itself.
PRINT = """
dpkg-query -W; getent passwd; systemctl list-unit-files --no-legend --no-pager
find /etc /srv /usr/local /opt -xdev ! -type d -exec sha256sum {} + 2>&1 | sort
find /etc /srv /usr/local /opt /var/lib/mysql -xdev -printf '%p %m %u %g\\n' 2>&1 | sort
"""


def test_a_check_of_a_bare_host_changes_nothing_and_names_every_part():
    bare = hosts.Hosts(Path(__file__).parent / "bare.yml")
    try:
        assert bare.play("playbooks/sandbox.yml").finish().status == 0
        before = bare.on("release-bare", PRINT)
        announced = bare.play(*fleet.DEPLOY, "--check", "--diff").finish()
        assert announced.status == 0, announced.text[-3000:]
        assert bare.on("release-bare", PRINT) == before
        done = bare.deploy()
        assert done.status == 0, done.text[-3000:]
        assert announced.roles() == done.roles() >= {"mysql", "django_app", "web"}
        assert bare.on("release-bare", PRINT) != before
    finally:
        bare.play("playbooks/sandbox.yml", variables={"sandbox_state": "absent"}).finish()
