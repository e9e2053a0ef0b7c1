"""Every wrong inventory of rejects.yml through the real playbook.yml: refused before any host is touched.

The hosts are on paper: their addresses belong to nobody, and whoever opens an SSH connection to one leaves a
mark first. A few of these run at a time, each a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.parsing import vault
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit"))
from rejects import BASES, CASES, inventory, said  # noqa: E402


def play(folder: Path, hosts: dict, groups: dict, *more: str) -> tuple[int, str, list[str]]:
    """Run the main job on these hosts: (exit status, what it said, what it left beside the inventory)."""
    folder.mkdir(parents=True)
    touch = f"-o ControlPath=none -o ProxyCommand='touch {folder}/%n.touched; false'"
    written = {
        "all": {
            "vars": {"ansible_ssh_common_args": touch},
            "hosts": hosts,
            "children": {
                group: {"hosts": dict.fromkeys(names, None) or None} for group, names in groups.items()
            },
        }
    }
    (folder / "hosts.yml").write_text(json.dumps(written), encoding="utf-8")
    run = subprocess.run(
        ["ansible-playbook", "-i", folder / "hosts.yml", *(more or ("playbook.yml",))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    return run.returncode, run.stdout + run.stderr, sorted({*os.listdir(folder)} - {"hosts.yml"})


@pytest.mark.parametrize("opened", [False, True])
def test_a_vault_that_cannot_be_opened_or_holds_two_lines(opened, tmp_path):
    (tmp_path / "password").write_text("right")
    key = ("--vault-password-file", tmp_path / "password")
    made = subprocess.run(
        ["ansible-vault", "encrypt_string", *key, "--stdin-name", "mysql_app_password"],
        input="never-shown\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    (tmp_path / "vault.yml").write_text(made.stdout)
    groups = {"database": ["h"], "application": ["h"], "web": ["h"]}
    more = key if opened else ()
    status, output, left = play(
        tmp_path / "paper", {"h": {}}, groups, "playbook.yml", *more, "-e", f"@{tmp_path}/vault.yml"
    )
    assert status != 0
    words = "has a line break" if opened else "its vault cannot be opened"
    assert f"h: mysql_app_password=(hidden): {words}" in output
    assert "never-shown" not in output
    assert left == []


@pytest.mark.parametrize("password", [None, "another"])
def test_a_vault_is_looked_for_wherever_a_value_may_come_from(password, tmp_path):
    lib = vault.VaultLib([("default", vault.VaultSecret(b"right"))])
    text = {"__ansible_vault": lib.encrypt("never-shown").decode()}
    given = {
        "elsewhere": text,
        "backup_password": "{{ elsewhere }}",
        "django_app_environment": {"TOKEN": text},
    }
    more = ["-e", json.dumps(given)]
    if password:
        (tmp_path / "password").write_text(password)
        more += ["--vault-password-file", tmp_path / "password"]
    groups = {"database": ["h"], "application": ["h"], "web": ["h"]}
    status, output, left = play(tmp_path / "paper", {"h": {}}, groups, "playbook.yml", *more)
    assert status != 0
    for name in ("backup_password", "django_app_environment"):
        assert f"h: {name}=(hidden): its vault cannot be opened" in output
    assert left == []


def test_an_expired_certificate_is_refused(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.org")])
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, ended - timedelta(days=90), ended)
    text = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "certificate.pem").write_bytes(text)
    given = dict.fromkeys(
        ("web_tls_certificate", "web_tls_key", "mysql_ca_file"), str(tmp_path / "certificate.pem")
    )
    groups = {"database": ["h"], "application": ["h"], "web": ["h"]}
    status, output, left = play(
        tmp_path / "paper", {"h": {}}, groups, "playbook.yml", "-e", json.dumps(given)
    )
    assert status != 0
    for variable in ("web_tls_certificate", "mysql_ca_file"):
        assert re.search(rf"h: {variable}=\S+: .*expired on 2026-01-02", " ".join(output.split())), output
    assert left == []


@pytest.fixture(scope="session")
def refusals(request, tmp_path_factory):
    """Each wanted case's run, all started at the first question."""
    wanted = [
        item.callspec.params["case"] for item in request.session.items if "refusals" in item.fixturenames
    ]
    top = tmp_path_factory.mktemp("inventories")
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        yield {
            case["name"]: pool.submit(play, top / str(number), *inventory(case))
            for number, case in enumerate(wanted)
        }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_refused_before_any_host_is_touched(case, refusals):
    status, output, left = refusals[case["name"]].result()
    assert status == 2, output
    assert "REFUSED: " in output and said(case, output), output
    assert left == []


def test_a_touch_would_be_seen(tmp_path):
    base = BASES["fleet"]
    status, output, left = play(tmp_path / "fine", base["hosts"], base["groups"])
    assert status != 0 and "not reached" in output
    assert left == sorted(f"{own['ansible_host']}.touched" for own in base["hosts"].values())


@pytest.mark.parametrize("playbook", ["playbook.yml", "playbooks/plan.yml", "playbooks/verify.yml"])
@pytest.mark.parametrize("part", ["app1", "app1,localhost", "application"])
def test_a_part_of_the_fleet_is_refused(playbook, part, tmp_path):
    base = BASES["fleet"]
    status, output, left = play(tmp_path / "part", base["hosts"], base["groups"], playbook, "--limit", part)
    assert status == 2, output
    assert f"--limit {part}: " in " ".join(output.split()) and "Mend: run it without --limit" in output
    assert left == []
