"""A run that is cut off leaves a site that serves; the next run finishes the work (scenario `release`)."""

from __future__ import annotations

import fleet
import pytest
from test_release import APP1, APP2, appends, load, migrates, next_number  # noqa: F401 (load is a fixture)


def a_release():
    """One with a migration, so that every step has work to do."""
    number = next_number()
    fleet.make(number, migrates(f"migrations.AddField('entry', 'x{number}', models.IntegerField(null=True))"))


def converges():
    """The next run puts what was declared in service everywhere, and the one after it has nothing to do."""
    run = fleet.deploy()
    assert run.status == 0, run.text[-3000:]
    assert fleet.release_of(APP1) == fleet.release_of(APP2)
    for host in fleet.APPLICATIONS:
        units = fleet.on(host, "systemctl is-active django-app-trial django-app-next || :")
        assert units.split() == ["inactive", "inactive"]
        assert fleet.on(host, "find /srv/django-app /etc -name '*.part'") == ""
    again = fleet.deploy()
    assert (again.status, again.changes()) == (0, set()), again.text[-3000:]


@pytest.mark.parametrize(
    ("event", "task", "host"),
    [
        ("v2_playbook_on_task_start", "Build the release", None),
        ("v2_runner_on_ok", "Build the release", APP1),
        ("v2_runner_on_ok", "Migrate the database", APP1),
        ("v2_playbook_on_task_start", "Hand over", None),
        ("v2_runner_on_ok", "Hand over", APP1),
        ("v2_runner_on_ok", "Hand over", APP2),
    ],
    ids=["in the build", "built", "migrated", "in the hand-over", "one host handed over", "all handed over"],
)
def test_the_controller_dies(event, task, host, load):  # noqa: F811
    a_release()
    run = fleet.play(*fleet.DEPLOY)
    there = run.wait_for(
        lambda one: (
            one["_event"] == event
            and task in one["task"]["name"]
            and (host is None or host in one.get("hosts", {}))
        )
    )
    run.kill()
    assert there, run.text[-3000:]
    converges()


@pytest.mark.parametrize(
    "moment",
    [
        "systemctl is-active -q django-app-trial",
        "systemctl is-active -q django-app-next",
        "! systemctl is-active -q django-app",
    ],
    ids=["new workers on trial", "new workers beside the old", "the old ones go"],
)
def test_the_work_on_the_host_dies(moment, load):  # noqa: F811
    a_release()
    run = fleet.play(*fleet.DEPLOY)
    assert run.wait_for(lambda one: "Hand over" in one.get("task", {}).get("name", ""))
    fleet.on(APP1, f"until {moment}; do :; done; kill -9 $(cat /run/django-app-release.lock)")
    assert run.finish().status != 0
    converges()
