"""Passwords that a vault says, and changes of them that do not come to their end."""

from __future__ import annotations

import itertools

import site_operations as site
from ansible.parsing import vault

OPENS = b"the vault's own password"


def vaulted(text: str) -> dict:
    """As `ansible-vault encrypt_string` writes it."""
    lib = vault.VaultLib([("default", vault.VaultSecret(OPENS))])
    return {"__ansible_vault": lib.encrypt(text).decode()}


def reached(run: site.Play, task: str, times: int = 1) -> bool:
    """Until TASK was done on so many hosts."""
    count = itertools.count(1)
    return run.wait_for(
        lambda event: (
            event["_event"] == "v2_runner_on_ok"
            and task in (event.get("task") or {}).get("name", "")
            and next(count) == times
        )
    )


def test_a_vaulted_password_works_and_changes_without_a_failed_request(tmp_path, monkeypatch):
    file, old, new = tmp_path / "vault-password", site.secrets()["app"], "from#the'vault\\1"
    file.write_bytes(OPENS)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(file))
    given = {"mysql_app_password": vaulted(new)}
    with site.load() as loads:
        run = site.play("playbook.yml", variables=given).finish()  # with the proof
    assert run.status == 0, run.text[-3000:]
    site.nothing_failed(loads)
    for host in site.SERVERS:
        assert site.gets_in(host, "app", new)
        assert not site.gets_in(host, "app", old)
    assert new not in "".join(path.read_text() for path in site.SECRETS.iterdir())
    refused = site.play("playbooks/rotate.yml", variables=given).finish()
    assert refused.status != 0
    assert "mysql_app_password: a variable says it, so only you can change it" in refused.text
    back = site.deploy()
    assert back.status == 0, back.text[-3000:]


def test_check_mode_makes_none():
    before = site.secrets()
    run = site.play("playbooks/rotate.yml", "--check").finish()
    assert run.status == 0, run.text[-3000:]
    assert "check mode changed nothing" in run.text
    assert site.secrets() == before
    assert not (site.SECRETS / "rotation.json").exists()


def test_a_third_password_is_refused_while_two_are_in_use():
    """Hosts may still come with the first or have the second already; which, nobody knows."""
    first = site.secrets()["app"]
    with site.load() as loads:
        run = site.play("playbook.yml", variables={"mysql_app_password": "the-second-one"})
        assert reached(run, "Accounts | Apply"), run.text[-3000:]
        run.kill()
        third = site.deploy(mysql_app_password="the-third-one")
        assert third.status != 0
        assert "an earlier change of its password was cut off" in third.text
        assert "nothing was changed" in third.text
        for host in site.SERVERS:
            assert site.gets_in(host, "app", first), f"{host}: the sites still have it"
            assert not site.gets_in(host, "app", "the-third-one")
        back = site.deploy()  # to the one before
        assert back.status == 0, back.text[-3000:]
    site.nothing_failed(loads)
    for host in site.SERVERS:
        assert site.gets_in(host, "app", first)
        assert not site.gets_in(host, "app", "the-second-one")


def test_a_rotation_that_is_cut_off_at_its_very_end_does_not_stand_in_the_next_ones_way():
    run = site.play("playbooks/rotate.yml", variables={"rotate_accounts": ["monitor"]})
    # the new one to both servers, and the end of the old one on the first of them
    assert reached(run, "Accounts | Apply", times=3), run.text[-3000:]
    run.kill()
    if not (site.SECRETS / "rotation.json").exists():
        return  # it was faster
    begun = site.secrets()["monitor"]
    again = site.play("playbooks/rotate.yml", variables={"rotate_accounts": ["monitor"]}).finish()
    assert again.status == 0, again.text[-3000:]
    assert "Finished the rotation that began" in again.text
    assert site.secrets()["monitor"] == begun
    assert not (site.SECRETS / "rotation.json").exists()
