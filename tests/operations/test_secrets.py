"""New passwords by a run as talkative as it can be: neither they nor the old ones are where none must be.

A first deployment is looked at in the same way by tests/release/test_bare.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import secret_hunt
import site_operations as site

PLAYBOOK = "playbooks/rotate.yml"
OLD: list[str] = []  # what was valid before the run


def every_secret() -> list[str]:
    return OLD + secret_hunt.secrets_in(site.SECRETS)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    OLD.extend(secret_hunt.secrets_in(site.SECRETS))
    said = secret_hunt.talkative(site.FLEET, tmp_path_factory.mktemp("notes"), PLAYBOOK)
    assert said.status == 0, said.text[-3000:]
    return said


def test_not_in_what_the_run_said_and_noted(said):
    assert len(every_secret()) >= 10
    assert secret_hunt.leaks(said, every_secret(), PLAYBOOK) == []


def test_not_in_files_that_others_on_the_controller_can_read(said):
    places = (site.ROOT / ".cache", site.INVENTORY, Path.home() / ".ansible")
    assert secret_hunt.leaks_in_files(every_secret(), *places) == []


@pytest.mark.parametrize("host", site.FLEET.hosts)
def test_not_on_a_host_where_others_can_read(host, said):
    assert secret_hunt.leaks_on(site.FLEET, host, every_secret()) == []
