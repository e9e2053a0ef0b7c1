"""What others can reach on our hosts: everything is ours, the system's, or in verify_known_listeners."""

from __future__ import annotations

import re

import pytest
from declared import at_once, connect, load

# Programs of a host itself, whatever they listen on: to be reached, to know time, names and its address.
SYSTEM = {
    "sshd",
    "systemd-resolve",
    "systemd-network",
    "systemd-timesyn",
    "chronyd",
    "ntpd",
    "dhclient",
    "dhcpcd",
}
SERVERS = {"mysqld", "mariadbd"}
# Not the server of somebody else, of whose host nothing is ours.
HOSTS = [
    name
    for name, host in load()["hosts"].items()
    if host["mysql"].get("managed") or host["django_app"] or host["web"]
]
LOOPBACK = re.compile(r"127\.|\[::1\]|\[::ffff:127\.")


@pytest.fixture(params=HOSTS)
def name(request) -> str:
    return request.param


def expected(name: str) -> set[tuple[str, int]]:
    """(program, port) of what was declared for this host."""
    host = load()["hosts"][name]
    mysql, app, web, cluster = host["mysql"], host["django_app"], host["web"], host["cluster"]
    # systemd holds the sockets that it starts something for
    found = {("systemd", int(host["connection"]["port"]))}
    if mysql.get("managed"):
        ports = [int(mysql["port"]), int(mysql["admin_port"])]
        ports += [33060] if mysql["flavor"] == "mysql" else []  # the X protocol
        if cluster:
            ports += [33061] if mysql["flavor"] == "mysql" else [4567, 4568, 4444]
            found |= {(program, int(host["agent_port"])) for program in ("systemd", "python3")}
            found |= {("socat", 4444), ("rsync", 4444)}  # a node that joins
        found |= {(program, port) for program in SERVERS for port in ports}
    if app:
        port = re.search(r":?(\d+)$", app["bind"])
        found |= {(program, int(port.group(1))) for program in ("systemd", "gunicorn", "python3") if port}
        found |= {("haproxy", int(cluster["proxies"][name]["port"]))} if cluster else set()
    if web:
        found |= {("nginx", int(web["http_port"]))} | (
            {("nginx", int(web["https_port"]))} if web["tls"] else set()
        )
    return found


@at_once(HOSTS)
def listeners(name: str) -> list[tuple[str, str, int, list[str]]] | str:
    done = connect(name).run("ss -H -lntup")
    if done.rc:
        return done.stderr
    found = []
    for line in done.stdout.splitlines():
        protocol, _, _, _, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        found.append((protocol, address, int(port), sorted(set(re.findall(r'\("([^"]+)",pid=', line)))))
    return found


def test_nothing_listens_that_nobody_declared(name, compare):
    found, known = listeners(name), load()["hosts"][name]["known_listeners"]
    assert isinstance(found, list) and found, f"{name}: ss found nothing, not even sshd: {found}"
    wrong = [entry for entry in known if not re.fullmatch(r"(tcp|udp)/\d{1,5}", str(entry))]
    assert not wrong, f"{name}: verify_known_listeners: {wrong} are not written as tcp/9100"
    for protocol, address, port, programs in found:
        if LOOPBACK.match(address):
            continue
        ours = {(program, port) for program in programs} & expected(name) or set(programs) & SYSTEM
        named = f"{protocol}/{port}" in known
        who = " ".join(programs) or "the kernel"
        compare(
            f"{protocol} {address}:{port}",
            "ours, or in verify_known_listeners",
            who,
            same=bool(ours or named),
        )


UPDATES = r"""
apt-config dump
echo --
systemctl is-enabled apt-daily.timer apt-daily-upgrade.timer
systemctl is-active apt-daily.timer apt-daily-upgrade.timer
echo --
test -x /usr/bin/unattended-upgrade && echo installed
test -e /etc/apt/apt.conf.d/99-managed-updates && echo ours
echo --
dpkg-query -W -f '${Package}\n' | grep -E '^(mysql|mariadb)-(community-)?server'
"""


@at_once(HOSTS)
def updates(name: str) -> list[list[str]]:
    return [part.split("\n") for part in connect(name).run(UPDATES).stdout.split("--\n")]


def test_security_updates_come_by_themselves_where_that_is_declared(name, compare):
    settings, timers, there, servers = updates(name)
    if not load()["hosts"][name]["updates"]:
        found = "there; mend: a run with updates_unattended: false" if "ours" in there else "none"
        compare("unattended updates of ours", "none", found)
        return
    found = re.findall(r'^([\w:-]+?)(?:::)? "(.*)";$', "\n".join(settings), re.MULTILINE)
    values = {key: [value for other, value in found if other == key] for key, _ in found}
    compare("unattended-upgrades", "installed", "installed" if "installed" in there else "missing")
    compare("its timers", "enabled enabled active active", " ".join(timers).strip())
    for key, value in (
        ("APT::Periodic::Enable", "1"),
        ("APT::Periodic::Update-Package-Lists", "1"),
        ("APT::Periodic::Unattended-Upgrade", "1"),
        ("Unattended-Upgrade::Automatic-Reboot", "false"),
    ):
        compare(key, value, " ".join(values.get(key, [])[-1:]))
    wide = ("Unattended-Upgrade::Origins-Pattern", "Unattended-Upgrade::Allowed-Origins")
    origins = [value for key in wide for value in values.get(key, []) if value]
    wrong = [origin for origin in origins if "-security" not in origin]
    compare(
        "updates come from", "the security archive", ", ".join(wrong or origins), same=origins and not wrong
    )
    out = values.get("Unattended-Upgrade::Package-Blacklist", [])
    for package in filter(None, servers):
        same = any(re.match(pattern, package) for pattern in out if pattern)
        compare(f"{package} is left out", True, same)
