"""`mysql_firewall: true` under load: who has an account reaches the server, others do not."""

from __future__ import annotations

import socket

import fleet
from test_release import APP1, APP2, load  # noqa: F401 (a fixture)

SERVER = fleet.FLEET.address(fleet.WEB)
PORT, DOOR = 3306, 33062
# The first bytes that a server sends name its protocol: what answers is no packet filter.
ASK = """python3 - <<'END'
import socket
try:
    with socket.create_connection(("{address}", {port}), timeout=5) as there:
        print("server" if there.recv(5)[4:5] in (b"\\n", b"\\xff") else "closed")
except ConnectionRefusedError:
    print("refused")
END"""


def from_host(host: str, port: int, address: str = SERVER) -> str:
    return fleet.on(host, ASK.format(address=address, port=port))


def from_here(port: int) -> tuple[str, str]:
    """What the controller meets, which has no account; and the address it comes with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((SERVER, port))
        own = way.getsockname()[0]
    try:
        with socket.create_connection((SERVER, port), timeout=5) as there:
            return ("server" if there.recv(5)[4:5] in (b"\n", b"\xff") else "closed"), own
    except ConnectionRefusedError:
        return "refused", own


def test_only_who_has_an_account_reaches_the_server(load):  # noqa: F811
    met, own = from_here(PORT)
    assert met == "server"
    try:
        run = fleet.deploy(mysql_firewall=True)
        assert run.status == 0, run.text[-3000:]
        assert {from_host(host, PORT) for host in (APP1, APP2)} == {"server"}
        assert from_host(fleet.WEB, DOOR, "127.0.0.1") == "server"
        assert {from_host(host, DOOR) for host in (APP1, APP2)} == {"refused"}
        assert [from_here(PORT)[0], from_here(DOOR)[0]] == ["refused", "refused"]
        assert fleet.deploy(mysql_firewall=True).changes() == set()

        # somebody empties all tables: verify is red, a run puts ours back
        fleet.on(fleet.WEB, "nft flush ruleset")
        assert from_here(PORT)[0] == "server"
        seen = fleet.play("playbooks/verify.yml", variables={"mysql_firewall": True}).finish()
        assert seen.status != 0
        assert "the firewall" in seen.text
        assert fleet.deploy(mysql_firewall=True).status == 0
        assert from_here(PORT)[0] == "refused"
        seen = fleet.play("playbooks/verify.yml", variables={"mysql_firewall": True}).finish()
        assert seen.status == 0, seen.text[-3000:]

        run = fleet.deploy(mysql_firewall=True, mysql_firewall_networks=[own])
        assert run.status == 0, run.text[-3000:]
        assert [from_here(PORT)[0], from_here(DOOR)[0]] == ["server", "refused"]
    finally:
        run = fleet.deploy()
    assert run.status == 0, run.text[-3000:]
    assert (
        fleet.on(fleet.WEB, "nft list ruleset; ls /etc/systemd/system/mysql-firewall* 2>/dev/null || :") == ""
    )
    assert from_here(PORT)[0] == "server"
