"""Passwords are rotated under load: none fails, none of the old ones stays, whenever a run is cut off."""

from __future__ import annotations

import pytest
import site_operations as site


def rotate(**variables) -> site.Play:
    return site.play("playbooks/rotate.yml", variables=variables)


def test_every_password_is_new_and_no_request_fails():
    old = site.secrets()
    with site.load() as loads:
        run = rotate().finish()
    assert run.status == 0, run.text[-3000:]
    site.nothing_failed(loads)
    new = site.secrets()
    assert all(new[name] != old[name] for name in old)
    for host in site.SERVERS:
        for account in old:
            assert site.gets_in(host, account, new[account]), f"{host}: {account}"
            assert not site.gets_in(host, account, old[account]), f"{host}: {account} with the old password"
    assert not (site.SECRETS / "rotation.json").exists()
    for path in site.SECRETS.iterdir():
        assert path.name == "ca.pem" or path.stat().st_mode & 0o077 == 0, path


def test_a_rotation_leaves_nothing_to_do():
    run = site.play("playbook.yml").finish()
    assert run.status == 0, run.text[-3000:]
    assert run.changes() == set()


@pytest.mark.parametrize(
    "task",
    [
        "Rotate | New passwords on the controller",
        "Accounts | Apply",
        "Hand over | Put the release in service",
    ],
)
def test_a_run_that_is_cut_off_is_gone_on_with(task):
    """Nobody is locked out meanwhile: the old password is good until the new one is everywhere."""
    old = site.secrets()
    with site.load() as loads:
        run = rotate(rotate_accounts=["app"])
        assert run.wait_for(
            lambda event: (
                event["_event"] == "v2_runner_on_ok" and task in (event.get("task") or {}).get("name", "")
            )
        ), run.text[-3000:]
        run.kill()
        begun = site.secrets()
        assert begun["app"] != old["app"]
        run = rotate(rotate_accounts=["app"]).finish()
    assert run.status == 0, run.text[-3000:]
    assert "Finished the rotation that began" in run.text
    site.nothing_failed(loads)
    assert site.secrets() == begun, "a rotation that is gone on with makes no further passwords"
    for host in site.SERVERS:
        assert site.gets_in(host, "app", begun["app"])
        assert not site.gets_in(host, "app", old["app"])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"rotate_accounts": ["root"]}, "rotate_accounts: root is no account of ours"),
        ({"mysql_app_password": "given-by-a-vault"}, "mysql_app_password: a variable says it"),
    ],
)
def test_what_cannot_be_rotated_is_refused(variables, words):
    before = site.secrets()
    run = rotate(**variables).finish()
    assert run.status != 0
    assert words in run.text
    assert site.secrets() == before
    assert not (site.SECRETS / "rotation.json").exists()


def test_a_password_that_a_variable_says_changes_in_the_same_way():
    """A vault's new value and the main job: both passwords until every application has the new one."""
    old, new = site.secrets()["app"], "Zi7-given#by'a vault\\"
    with site.load() as loads:
        run = site.deploy(mysql_app_password=new)
        assert run.status == 0, run.text[-3000:]
        back = site.deploy()
        assert back.status == 0, back.text[-3000:]
    site.nothing_failed(loads)
    assert site.gets_in("ops-mysql", "app", old)
    for host in site.SERVERS:
        assert site.sql(host, "SELECT 1") == "1"
