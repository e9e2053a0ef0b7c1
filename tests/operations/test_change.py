"""Server changes under load: live ones reach every session, restarts wait for what they would cut off."""

from __future__ import annotations

import shlex

import pytest
import site_operations as site


@pytest.mark.parametrize("value", ["384K", "256K"])
def test_a_live_change_restarts_nothing_and_reaches_every_session(value):
    before = {host: site.server_start(host) for host in site.SERVERS}
    renewed = site.renewed("ops-mariadb")
    with site.load() as loads:
        run = site.play(
            "playbook.yml", variables={"mysql_sort_buffer_size": value}
        ).finish()  # with the proof
    assert run.status == 0, run.text[-3000:]
    site.nothing_failed(loads)
    assert {host: site.server_start(host) for host in site.SERVERS} == before
    assert site.session_values("sort_buffer_size") == {str(int(value[:-1]) * 1024)}
    (now,) = site.renewed("ops-mariadb")
    assert now not in renewed


AGE = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_started < NOW() - INTERVAL 2 SECOND"


def held(host: str) -> None:
    """Somebody else's transaction, open for longer than a restart ignores, until the unit `held` stops."""
    statements = "echo 'START TRANSACTION; SELECT id FROM journal.journal_entry LIMIT 1 FOR UPDATE;'"
    held = f"({statements}; sleep infinity) | {site.SERVERS[host]} -BN"
    # InnoDB makes this table anew only for who asks more than 0.1 s after the last who did
    until = f'until [ "$({site.SERVERS[host]} -BNe "{AGE}")" -gt 0 ]; do sleep 0.2; done'
    site.on(
        host,
        f"systemd-run --quiet --unit=held sh -c {shlex.quote(held)}; timeout 120 sh -c {shlex.quote(until)}",
    )


@pytest.mark.parametrize("host", site.SERVERS)
def test_a_restart_that_would_cut_off_a_transaction_is_refused(host):
    before = site.server_start(host)
    try:
        held(host)
        run = site.play("playbooks/restart.yml", variables={"mysql_restart_wait": 2}).finish()
        assert run.status != 0
        assert "mysql_restart_wait=2: a restart (" in run.text
        assert "playbooks/restart.yml) would cut off transactions" in run.text
        assert "of root@localhost" in run.text
        assert site.server_start(host) == before
        back_log = 700 + len(host)  # static; the other server takes it meanwhile
        change = {"mysql_restart_wait": 2, "mysql_back_log": back_log}
        run = site.play("playbook.yml", variables=change).finish()
        assert run.status != 0
        assert "back_log: " in run.text
        assert "nothing was changed" in run.text
        assert site.server_start(host) == before
        assert str(back_log) not in site.on(host, "grep -rh back_log /etc/mysql/ || true")
    finally:
        site.on(host, "systemctl stop held || true")


def test_servers_restart_and_at_most_one_request_of_each_client_fails():
    before = {host: site.server_start(host) for host in site.SERVERS}
    with site.load() as loads:
        run = site.play("playbooks/restart.yml").finish()
    assert run.status == 0, run.text[-3000:]
    assert all(site.server_start(host) != before[host] for host in site.SERVERS)
    for one in loads.values():
        assert len(one.failures) <= one.clients, one.failures
