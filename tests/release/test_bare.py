"""A host that nothing was ever deployed on: a check, then a first run that tells all but secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fleet
import hosts
import pytest
import secret_hunt

HOST = "release-bare"
PLAYBOOK = "playbook.yml"
# All that a deployment could leave on a host, but for what changes by itself.
PRINT = """
dpkg-query -W; getent passwd; systemctl list-unit-files --no-legend --no-pager
find /etc /srv /usr/local /opt -xdev ! -type d -exec sha256sum {} + 2>&1 | sort
find /etc /srv /usr/local /opt /var/lib/mysql -xdev -printf '%p %m %u %g\\n' 2>&1 | sort
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The host, with secrets that no run made yet."""
    found = hosts.Hosts(
        Path(__file__).parent / "bare.yml", mysql_secrets_dir=str(tmp_path_factory.mktemp("bare") / "secrets")
    )
    try:
        made = found.play("playbooks/sandbox.yml").finish()
        assert made.status == 0, made.text[-3000:]
        yield found
    finally:
        found.play("playbooks/sandbox.yml", variables={"sandbox_state": "absent"}).finish()


@pytest.fixture(scope="module")
def secrets(bare) -> Path:
    return Path(bare.variables["mysql_secrets_dir"])


@pytest.fixture(scope="module")
def announced(bare, secrets) -> set[str]:
    """Which roles a check says it would change something of; it changes nothing."""
    before = bare.on(HOST, PRINT)
    run = bare.play(*fleet.DEPLOY, "--check", "--diff").finish()
    assert run.status == 0, run.text[-3000:]
    assert bare.on(HOST, PRINT) == before
    assert not secrets.exists()
    return run.roles()


@pytest.fixture(scope="module")
def first(bare, announced, tmp_path_factory):
    """The first run, after that check."""
    notes = tmp_path_factory.mktemp("notes")
    said = secret_hunt.talkative(bare, notes, PLAYBOOK, variables=json.dumps(bare.variables))
    assert said.status == 0, said.text[-3000:]
    return said


def test_a_check_names_every_part_that_the_run_then_changes(announced, first):
    done = set()
    for part in re.split(r"(?m)^(?=(?:TASK|PLAY|RUNNING HANDLER) )", first.text):
        role = re.match(r"TASK \[(\w+) : ", part)
        if role and re.search(r"(?m)^changed: \[", part):
            done.add(role.group(1))
    assert announced == done >= {"mysql", "django_app", "web"}


def test_no_secret_in_what_the_first_run_said_and_noted(first, secrets):
    found = secret_hunt.secrets_in(secrets)
    assert len(found) >= 8, "four accounts, the secret key, and the lines of the authority's key"
    assert secret_hunt.leaks(first, found, PLAYBOOK) == []


def test_no_secret_in_files_that_others_on_the_controller_can_read(first, secrets):
    places = (fleet.ROOT / ".cache", secrets, Path.home() / ".ansible")
    assert secret_hunt.leaks_in_files(secret_hunt.secrets_in(secrets), *places) == []


def test_no_secret_on_the_host_where_others_can_read(bare, first, secrets):
    assert secret_hunt.leaks_on(bare, HOST, secret_hunt.secrets_in(secrets)) == []
