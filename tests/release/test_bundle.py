"""An older commit of this bundle to this one, and another Django: on live data, under load."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import fleet
import pytest
import reference_releases

# The first one that deployed all of the stack; it knew no hand-over host by host.
OLD = "6874783"


def deployed(host: str) -> bool:
    return fleet.on(host, "readlink /srv/django-app/current || echo none") != "none"


@pytest.fixture
def load():
    with fleet.Load() as load:
        yield load
    assert load.failures == []
    assert load.stored() == (len(load.acknowledged), 0)


@pytest.fixture
def older(tmp_path):
    """The hosts as the older bundle deploys them."""
    if any(deployed(host) for host in fleet.APPLICATIONS):
        pytest.skip("these hosts have a deployment already; this test wants bare ones")
    archive = subprocess.run(["git", "archive", OLD], cwd=fleet.ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        found.extractall(tmp_path, filter="data")
    shutil.rmtree(fleet.SOURCE, ignore_errors=True)
    shutil.copytree(tmp_path / "app", fleet.SOURCE, ignore=reference_releases.NOT_THEIRS)
    run = fleet.play(*fleet.DEPLOY, folder=tmp_path).finish()
    assert run.status == 0, run.text[-3000:]
    assert all(deployed(host) for host in fleet.APPLICATIONS)


def test_an_older_bundle_becomes_this_one(older):
    """Its nginx and its server had no sandbox: each is restarted once, the server under the older release."""
    reference_releases.make(fleet.SOURCE)
    start = "systemctl show nginx -P ExecMainStartTimestampMonotonic"
    before = fleet.on(fleet.WEB, start)
    with fleet.Load() as load:
        run = fleet.deploy()
        assert run.status == 0, run.text[-3000:]
        restarted = fleet.on(fleet.WEB, start)
        assert fleet.deploy().changes() == set()
        assert fleet.on(fleet.WEB, start) == restarted != before
    assert load.stored() == (len(load.acknowledged), 0)
    refused = [one for one in load.all if one.problem.startswith("ConnectionRefusedError")]
    others = [one for one in load.all if one.problem and one not in refused]
    assert all(one.problem.startswith("HTTP 500") for one in others), load.failures
    for found in (refused, others):
        began = [one.began for one in found] or [0]
        assert max(began) - min(began) < 3, load.failures


def test_another_django_and_back(load):
    ask = "/srv/django-app/current/venv/bin/python -c 'import django; print(django.__version__)'"
    for version in ("6.1", "5.2"):
        run = fleet.deploy(django_app_django_version=version)
        assert run.status == 0, run.text[-3000:]
        for host in fleet.APPLICATIONS:
            assert fleet.on(host, ask).startswith(f"{version}.")
