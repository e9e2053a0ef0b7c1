"""What check mode announces is what the run then changes, on hosts that are deployed (scenario `release`)."""

from __future__ import annotations

import fleet
import pytest
from test_release import migrates, next_number


def a_release_with_a_migration():
    number = next_number()
    fleet.make(number, migrates(f"migrations.AddField('entry', 'x{number}', models.IntegerField(null=True))"))


@pytest.fixture(scope="module")
def settled():
    run = fleet.deploy()
    assert run.status == 0, run.text[-3000:]


# Each from what the one before left: what that changed by a variable is changed back.
@pytest.mark.parametrize(
    ("variables", "change"),
    [
        ({}, None),
        ({}, a_release_with_a_migration),
        ({"django_app_threads": 6, "django_app_pool_size": 12}, lambda: fleet.make(next_number())),
        (
            {"mysql_table_open_cache": 1500, "mysql_databases": [{"name": "journal"}, {"name": "archive"}]},
            None,
        ),
        ({"mysql_innodb_log_buffer_size": "24M", "mysql_extra_settings": {"local_infile": True}}, None),
        ({"mysql_app_privileges": ["SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE"]}, None),
        ({"mysql_unit_sandbox": False, "web_unit_sandbox": False, "mysql_firewall": True}, None),
        ({"web_client_max_body": "12m", "django_app_environment": {"MOTTO": "announced"}}, None),
        ({}, lambda: fleet.on(fleet.WEB, "systemctl stop nginx; chmod 644 /etc/mysql/operator.cnf")),
        (
            {},
            lambda: fleet.on(
                fleet.WEB, "systemctl disable --now mariadb; rm /etc/nginx/conf.d/django-app.conf"
            ),
        ),
        ({"web_client_max_body": "13m", "mysql_max_connections": 310, "django_app_workers": 3}, None),
        ({"updates_unattended": True}, None),
        ({"updates_unattended": False}, None),
    ],
    ids=[
        "nothing",
        "a release with a migration",
        "a release, its threads and pool",
        "a dynamic parameter and a database",
        "a parameter that wants a restart, and one outside the catalogue",
        "a privilege",
        "no sandbox, a firewall",
        "the proxy and the environment",
        "a service stopped and a mode changed by hand",
        "the server stopped and a file removed by hand",
        "all three",
        "unattended updates",
        "and none",
    ],
)
def test_announced_is_done(variables, change, settled):
    if change:
        change()
    announced = fleet.play(*fleet.DEPLOY, "--check", "--diff", variables=variables).finish()
    assert announced.status == 0, announced.text[-3000:]
    done = fleet.deploy(**variables)
    assert done.status == 0, done.text[-3000:]
    assert announced.changes() == done.changes()
    assert bool(done.changes()) == bool(variables or change)
