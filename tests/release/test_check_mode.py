"""What check mode announces is what the run then changes, on hosts that are deployed (scenario `release`)."""

from __future__ import annotations

import fleet
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
