"""Wrong input to the main job, on a host that is deployed and serves (scenario `reject`).

Each case runs the real ``playbook.yml`` and asks for three things: it fails, its message has the words that
help, and what was there before still stands and serves.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import stock_project  # noqa: E402

INVENTORY = os.environ.get("REJECT_INVENTORY", "")
HOST = "reject-1"

# What a run that changes nothing leaves alone: files, the running processes, the release in use.
STATE = r"""
find /etc/mysql /etc/systemd/system /etc/nginx -xdev -type f -print0 | sort -z | xargs -0 sha256sum
systemctl show --property=Id,MainPID,ActiveState mariadb.service nginx.service
readlink -f /srv/*/current
"""


@pytest.fixture(scope="session")
def inventory() -> dict:
    """The scenario's host, as ansible-inventory resolves it."""
    if not INVENTORY:
        raise pytest.UsageError("REJECT_INVENTORY is not set: run `molecule test -s reject`")
    out = subprocess.run(
        ["ansible-inventory", "-i", INVENTORY, "--host", HOST],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(out.stdout)


def on_host(script: str) -> str:
    """Run SCRIPT as root on the host: what it wrote, without the lines that Ansible and ssh put around it."""
    out = subprocess.run(
        [
            "ansible",
            "-i",
            INVENTORY,
            HOST,
            "-b",
            "-m",
            "ansible.builtin.raw",
            "-a",
            f"sh -c {shlex.quote(script)}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    # raw asks for a terminal, and ssh sometimes, not always, says that it left one.
    _, *lines = out.stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith("Shared connection to "))


def serves(inventory: dict) -> bool:
    """The site answers with a query through the pool."""
    with urllib.request.urlopen(f"http://{inventory['ansible_host']}/readyz", timeout=10) as answer:
        return answer.status == 200


def deploy(variables: dict) -> tuple[int, str]:
    """Run the main job with VARIABLES laid over the inventory: (exit status, all output on one line)."""
    run = subprocess.run(
        ["ansible-playbook", "-i", INVENTORY, "playbook.yml", "-e", json.dumps(variables)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    return run.returncode, " ".join((run.stdout + run.stderr).split())


def refused(variables: dict, inventory: dict, *words: str) -> str:
    """Deploy VARIABLES; it must be refused with WORDS, and the old state must stand and serve."""
    before = on_host(STATE)
    status, output = deploy(variables)
    assert status != 0, f"accepted: {variables}"
    for word in words:
        assert word in output, f"{word!r} is not in the message:\n{output[-3000:]}"
    assert on_host(STATE) == before
    assert serves(inventory)
    return output


def test_refused_on_paper(inventory):
    # The many ways: test_inventories.py. An address that nobody has: had a host been asked first, the run
    # would say that it was not reached.
    output = refused(
        {"django_app_pool_size": 2000, "ansible_host": "10.89.77.254"}, inventory, HOST, "max_connections"
    )
    assert "not reached" not in output


def test_gone_variable(inventory):
    refused(
        {"mysql_innodb_thread_concurrency": 8}, inventory, HOST, "mysql_innodb_thread_concurrency", "removed"
    )


def test_unreachable_host(inventory):
    refused(
        {"ansible_host": "10.89.77.254", "ansible_ssh_timeout": 3},
        inventory,
        HOST,
        "not reached",
        "ansible_host",
    )


def test_a_secret_that_cannot_be_computed(inventory):
    refused(
        {"mysql_app_password": "{{ not_defined_here }}"},
        inventory,
        f"{HOST}: mysql_app_password=(hidden): cannot be computed ('not_defined_here' is undefined); mend: ",
    )


def test_unsupported_os(inventory):
    on_host(
        "cp --preserve /etc/os-release /etc/os-release.kept; "
        "sed --follow-symlinks -i 's/^VERSION_ID=.*/VERSION_ID=9/; s/(trixie)/(stretch)/' /etc/os-release; "
        "mv /etc/debian_version /etc/debian_version.kept; echo 9.13 >/etc/debian_version"
    )
    try:
        refused({}, inventory, HOST, "not supported", "Debian 12")
    finally:
        on_host("cp /etc/os-release.kept /etc/os-release; mv /etc/debian_version.kept /etc/debian_version")


def test_variable_that_only_the_server_rejects(inventory):
    refused({"mysql_extra_settings": {"no_such_variable": 1}}, inventory, HOST, "no_such_variable")


def test_lower_case_table_names_of_existing_data(inventory):
    # The role made this data directory, and so with the article's 1.
    refused({"mysql_lower_case_table_names": 0}, inventory, HOST, "lower_case_table_names")


def test_no_space_for_the_data_directory(inventory):
    free = int(on_host("df --output=avail -B1 /var/lib/mysql").split()[-1])
    refused(
        {"mysql_innodb_log_file_size": f"{free // 2**20 + 1024}M"},
        inventory,
        HOST,
        "mysql_datadir=/var/lib/mysql",
        "MiB are free on",
    )


def test_a_second_operator_without_the_passwords(inventory, tmp_path):
    folder = tmp_path / "secrets"
    refused(
        {"mysql_secrets_dir": str(folder)},
        inventory,
        HOST,
        "mysql_app_password: the account is on the server",
        "copy that file from the controller that made it",
    )
    assert list(folder.glob("mysql_*")) == []  # never made anew


def test_another_data_directory_under_a_server_that_has_data(inventory):
    refused({"mysql_datadir": "/srv/elsewhere"}, inventory, HOST, "mysql_datadir=/srv/elsewhere", "cp -a")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("import", "there_is_no_such_module"),
        ("migration", "there_is_no_such_table"),
        ("health", "health"),
        ("worker", "broken on purpose"),
    ],
)
def test_broken_project(broken, words, inventory, tmp_path):
    stock_project.make(tmp_path, broken)
    project = {
        "django_app_source": str(tmp_path),
        "django_app_settings_module": "mysite.settings",
        "django_app_requirements": ["requirements.txt"],
        "django_app_health_timeout": 8,
        "django_app_allow_unsafe_migrations": ["extra.0001_initial"],  # else it would be stopped, not fail
        "django_app_health_path": "/admin/login/",  # a page of theirs: /readyz is ours and would answer
    }
    refused(project, inventory, HOST, words)


def test_second_run_after_all_that_changes_nothing(inventory):
    status, output = deploy({})
    assert status == 0, output[-3000:]
    assert "changed=0" in output
    assert serves(inventory)
