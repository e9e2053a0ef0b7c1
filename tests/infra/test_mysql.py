"""Does the server run as it is declared? One look at each host, then nothing but comparisons.

The look (look_mysql.py) runs on the host in one round trip and judges nothing.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from declared import at_once, confinement_of, connect, exposure_of, load, names_in

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("mysql_role", ROOT / "roles/mysql/module_utils/mysql_role.py")
mysql_role = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mysql_role)

OURS = [name for name in names_in("database") if load()["hosts"][name]["mysql"].get("managed")]
OTHERS = [name for name in names_in("database") if name not in OURS]

LOOK = (Path(__file__).parent / "look_mysql.py").read_bytes()
GROUPS = {
    "mysql": ["mysqld", "server", "mysqld-{v}", "mysql_cluster"],
    "mariadb": [
        "mysqld",
        "server",
        "mysqld-{v}",
        "mariadb",
        "mariadbd",
        "mariadb-{v}",
        "mariadbd-{v}",
        "client-server",
    ],
}
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
PLUGIN = {"mysql": "caching_sha2_password", "mariadb": "mysql_native_password"}
# What MySQL abbreviates as ALL PRIVILEGES on a database (MariaDB has one more, DELETE HISTORY).
ALL_ON_A_DATABASE = {
    *("ALTER", "ALTER ROUTINE", "CREATE", "CREATE ROUTINE", "CREATE TEMPORARY TABLES", "CREATE VIEW"),
    *("DELETE", "DROP", "EVENT", "EXECUTE", "INDEX", "INSERT", "LOCK TABLES", "REFERENCES", "SELECT"),
    *("SHOW VIEW", "TRIGGER", "UPDATE"),
}
# Denied: 1045 by password, 1698 by plugin, 1130 by host, 2059 where the plugin is not for this transport.
DENIED = ("1045", "1698", "1130", "2059")


def managed(function):
    return pytest.mark.parametrize("name", OURS)(function)


def declared(name):
    return load()["hosts"][name]["mysql"]


def look(name):
    """What is on the host, as the script found it; where it could not, every test says so."""
    found = _look(name)
    assert isinstance(found, dict), f"{name}: the look failed: {found}"
    return found


@at_once(OURS)
def _look(name):
    mysql = declared(name)
    version = ".".join(mysql["version"].split(".")[:2])
    want = {
        "flavor": mysql["flavor"],
        "socket": mysql["socket"],
        "port": mysql["port"],
        "address": mysql["address"],
        "unit": mysql["unit"],
        "tls": mysql["tls_path"],
        "variables": [entry["variable"] for entry in readable(name)],
        "accounts": [[entry["name"], entry["host"]] for entry in mysql["accounts"]],
        "groups": [group.format(v=version) for group in GROUPS[mysql["flavor"]]],
        "files": list(modes(name)),
        "datadir": mysql["datadir"],
    }
    script, asked = (base64.b64encode(part).decode() for part in (LOOK, json.dumps(want).encode()))
    try:
        done = connect(name).run(f'echo {asked} | base64 -d | python3 -c "$(echo {script} | base64 -d)"')
    except RuntimeError as error:  # testinfra's word for "not reached"; it repeats the whole command
        return str(error)[-300:]
    return json.loads(done.stdout) if done.rc == 0 else done.stderr[-1000:]


def readable(name):
    return [
        entry
        for entry in declared(name)["settings"]
        if entry.get("variable") and entry["compare"] != "unreadable"
    ]


def modes(name):
    mysql = declared(name)
    tls = mysql["tls_path"]
    return {
        mysql["path"]: ["0o644", "root", "root"],
        f"/etc/systemd/system/{mysql['unit']}.d/managed.conf": ["0o644", "root", "root"],
        f"{tls}/ca.pem": ["0o644", "root", "root"],
        f"{tls}/server-cert.pem": ["0o644", "root", "root"],
        f"{tls}/server-key.pem": ["0o640", "root", "mysql"],
        "/etc/mysql/operator.cnf": ["0o600", "root", "root"],
        "/etc/mysql/monitor.cnf": ["0o600", "root", "root"],
    }


@managed
def test_every_parameter_is_live_and_stays_so_after_a_restart(name, compare):
    found = look(name)
    after = {}
    for option, value in found["next"]:
        after[mysql_role.option_name(option)] = value
    after.update(found["persisted"])
    for entry in readable(name):
        variable, value, how = entry["variable"], entry["value"], entry["compare"]
        live = found["global"].get(variable, "(no such variable)")
        file, stays = "", True
        if entry["file_value"] != "":
            option = mysql_role.option_name(entry["name"])
            file = after.get(option, after.get(variable, "(not in the files)"))
            stays = mysql_role.matches(value, file, how)
        same = stays and mysql_role.matches(value, live, how)
        compare(variable, entry["file_value"] or value, live, file, same=same)
    assert len(readable(name)) > 40, "the catalogue was not declared"


@managed
def test_a_plain_session_gets_what_is_declared(name, compare):
    session = look(name)["session"]
    assert session.get("current_user", "").startswith("monitor") or session.get("current_user") in {
        f"{entry['name']}@{entry['host']}"
        for entry in declared(name)["accounts"]
        if entry["role"] == "monitor"
    }, f"{name}: the monitor cannot log in"
    isolation = [e for e in readable(name) if e["variable"] in ("transaction_isolation", "tx_isolation")]
    assert isolation, f"{name}: no isolation level is declared"
    assert isolation[0]["variable"] in session, f"{name}: no session value of {isolation[0]['variable']}"
    for entry in readable(name):
        variable = entry["variable"]
        # the client says that it is interactive, and then gets interactive_timeout as its wait_timeout
        if variable in session and variable != "wait_timeout":
            same = mysql_role.matches(entry["value"], session[variable], entry["compare"])
            compare(
                f"session {variable}", entry["file_value"] or entry["value"], session[variable], same=same
            )


# What the site's sessions set for themselves.
SITES_OWN = (
    "transaction_isolation",
    "innodb_lock_wait_timeout",
    "lock_wait_timeout",
    "wait_timeout",
    "sql_mode",
)


@managed
def test_no_session_of_the_application_has_an_older_value(name, compare):
    """MySQL alone tells of other sessions; the pools' own word: test_django_app.py."""
    app = {entry["name"] for entry in declared(name)["accounts"] if entry["role"] == "app"}
    live = {}
    for _number, user, variable, value in look(name)["sessions"]:
        if user in app and variable not in SITES_OWN:
            live.setdefault(variable, set()).add(value)
    for entry in readable(name):
        for value in live.get(entry["variable"], ()):
            same = mysql_role.matches(entry["value"], value, entry["compare"])
            compare(f"sessions' {entry['variable']}", entry["file_value"] or entry["value"], value, same=same)


@managed
def test_the_server_may_open_the_files_it_needs(name, compare):
    found, need = look(name), declared(name)["limits"]["nofile"]
    assert found["nofile"], f"{name}: {declared(name)['unit']} has no process"
    unit, process = int(found["unit"]["LimitNOFILE"]), found["nofile"][0]
    compare("open files of the server", need, process, unit, same=process >= need and unit >= need)


@managed
def test_accounts_are_exactly_as_planned(name, compare):
    mysql, found = declared(name), look(name)
    have = {(user, host): rest for user, host, *rest in found["users"]}
    assert mysql["accounts"], f"{name}: no account is planned"
    for entry in mysql["accounts"]:
        user, host = entry["name"], entry["host"]
        who = f"{user}@{host}"
        if (user, host) not in have:
            compare(who, "exists", "missing")
            continue
        plugin, ssl_type, limit = have[user, host]
        compare(f"{who} logs in by", PLUGIN[mysql["flavor"]], plugin)
        compare(f"{who} MAX_USER_CONNECTIONS", entry["max_user_connections"], int(limit))
        compare(f"{who} must use TLS", entry["require_tls"], ssl_type == "ANY")
        wanted, live = (
            "; ".join(f"{', '.join(sorted(rights))} on {place}" for place, rights in sorted(places.items()))
            for places in (planned(entry), granted(found["grants"][who]))
        )
        compare(f"{who} rights", wanted, live)
        compare(f"{who} is opened by", "one password", "two" if who in found["second"] else "one password")
        if entry["role"] == "app" and entry["max_user_connections"] < 1:
            compare(f"{who} has a limit", True, False)
    names = {entry["name"] for entry in mysql["accounts"]}
    planned_accounts = {(entry["name"], entry["host"]) for entry in mysql["accounts"]}
    for user, host in have:
        if user in names and (user, host) not in planned_accounts:
            compare(f"{user}@{host}", "not planned", "exists")


def granted(lines):
    """{where: privileges} of SHOW GRANTS."""
    places = {}
    for line in lines:
        privileges, _, rest = line.removeprefix("GRANT ").partition(" ON ")
        place = rest.partition(" TO ")[0].replace("`", "").replace("\\\\", "\\")
        found = {word.strip() for word in privileges.split(",")} - {"USAGE"}
        if found == {"ALL PRIVILEGES"} and place.endswith(".*") and place != "*.*":
            found = set(ALL_ON_A_DATABASE)
        if "GRANT OPTION" in line:
            found.add("GRANT OPTION")
        if found:
            places.setdefault(place, set()).update(found)
    return places


def planned(entry):
    places = {}
    if entry["server_privileges"]:
        places["*.*"] = set(entry["server_privileges"])
    for database in entry["databases"]:
        if entry["privileges"]:
            places[database.replace("_", "\\_") + ".*"] = set(entry["privileges"])
    for database in entry["more_databases"]:
        places[f"{database}.*"] = {"SELECT"}
    return places


@managed
def test_nobody_else_gets_in(name):
    found = look(name)
    assert not found["root_error"], f"root cannot ask by the socket: {found['root_error']}"
    users = {(user, host) for user, host, *_ in found["users"]}
    assert ("root", "localhost") in users
    assert not [host for user, host in users if user == "root" and host != "localhost"]
    assert not [host for user, host in users if user == "" and host != ""], "anonymous users"
    assert found["anonymous_rights"] == [["0"]], "rights of anonymous users"
    databases = {entry["name"] for entry in declared(name)["databases"]}
    assert databases <= set(found["databases"])
    assert "test" in databases or "test" not in found["databases"]
    assert ("auth_socket" in found["root"]) or (
        "VIA unix_socket" in found["root"] and " OR " not in found["root"]
    ), found["root"]
    for who, tried in found["strangers"].items():
        assert tried["rc"] != 0, f"{name}: {who} gets in"
        assert any(f"ERROR {code}" in tried["err"] for code in DENIED), f"{name}: {who}: {tried['err']}"


@managed
def test_the_door_for_administrators_is_open(name):
    door = look(name)["door"]
    operator = next(e["name"] for e in declared(name)["accounts"] if e["role"] == "operator")
    assert door["rc"] == 0, f"{name}: {door['err']}"
    lines = door["out"].splitlines()
    assert lines[0].startswith(f"{operator}@"), lines
    assert "CONNECTION_ADMIN" in door["out"] or "CONNECTION ADMIN" in door["out"], lines
    assert int(
        look(name)["global"]["admin_port" if declared(name)["flavor"] == "mysql" else "extra_port"]
    ) == int(declared(name)["admin_port"])


@managed
def test_the_unit_is_enabled_runs_and_restarts(name, compare):
    what, unit = declared(name)["unit"], look(name)["unit"]
    compare(f"{what} runs", "active", unit["ActiveState"])
    compare(f"{what} at boot", "enabled", unit["UnitFileState"])
    comes_back = unit["Restart"] in ("on-failure", "on-abnormal", "always")
    compare(f"{what} after a crash", "on-failure", unit["Restart"], same=comes_back)
    assert look(name)["uid"] not in (None, 0), f"{name}: the server runs as root, or not at all"


@managed
def test_the_unit_is_confined(name, compare):
    if not declared(name)["sandbox"]:
        pytest.skip("mysql_unit_sandbox is false")
    found = look(name)
    exposure_of(found["exposure"], declared(name)["unit"], 4.0, compare)
    # what the unit says holds for a process only once it was started so
    compare("the server's process is confined", "NoNewPrivs 1, Seccomp 2", confinement_of(found["confined"]))


@managed
def test_file_modes_and_secrets(name, compare):
    found = look(name)
    for path, mode in modes(name).items():
        compare(path, " ".join(mode), " ".join(found["modes"][path] or ["missing"]))
    bits, owner, _ = found["datadir"] or ["missing"] * 3
    within = declared(name)["socket"].startswith(declared(name)["datadir"] + "/")
    closed = owner == "mysql" and (within or int(bits, 8) & 0o027 == 0)
    compare(declared(name)["datadir"], "0o750 mysql, or less", f"{bits} {owner}", same=closed)
    assert found["secrets"] >= 3, "the secrets to look for were not found"
    compare("files with a secret that others can read", "none", ", ".join(found["leaks"]) or "none")


@managed
def test_the_controller_keeps_secrets_to_itself(name):
    folder = Path(declared(name)["secrets_dir"])
    files = [*folder.glob("mysql_*_password"), *folder.glob("*-key.pem")]
    given = declared(name).get("passwords_given")
    assert files or given, f"no secrets in {folder}"
    wrong = [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) != 0o600]
    assert not wrong, f"readable by others: {wrong}"


@managed
def test_the_certificate_is_ours_and_names_the_server(name):
    tls = look(name)["tls"]
    assert "Verification: OK" in tls["out"], f"{name}: {tls['err'][-500:]}"
    assert "TLSv1.3" in tls["out"] or "TLSv1.2" in tls["out"]
    assert {part.strip() for part in look(name)["global"]["tls_version"].split(",")} <= {"TLSv1.2", "TLSv1.3"}


@managed
def test_certificates_are_not_about_to_end(name, compare):
    """A run makes new ones a month before."""
    for file, said in look(name)["ends"].items():
        end = datetime.strptime(said.removeprefix("notAfter="), "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
        days = (end - datetime.now(UTC)).days
        compare(f"{file} is good for days", "14 or more", days, same=days >= 14)


@managed
def test_it_listens_only_where_it_must(name):
    port = int(declared(name)["port"])
    places = {address for address, number in look(name)["listening"] if number == port}
    assert places, f"{name}: nothing listens on {port}"
    demand = load()["hosts"][name]["plan"].get("server", {}).get("demand", {})
    bind = [e["value"] for e in declared(name)["settings"] if e["name"].replace("-", "_") == "bind_address"]
    if not demand.get("listen") and bind == ["127.0.0.1"]:
        assert places <= LOOPBACK, f"{name}: {port} is open on {places - LOOPBACK}"
    if declared(name)["flavor"] == "mysql":
        doors = {
            address
            for address, number in look(name)["listening"]
            if number == int(declared(name)["admin_port"])
        }
        assert doors, f"{name}: the administrator's door is shut"
        assert doors <= LOOPBACK, f"{name}: the administrator's door is open on {doors - LOOPBACK}"


@managed
def test_the_firewall_lets_in_who_has_an_account(name, compare):
    mysql, live = declared(name), look(name)["firewall"]
    if not mysql["firewall"]:
        compare("a firewall of ours", "none", "loaded" if live["rc"] == 0 else "none")
        return
    compare("the firewall", "loaded", "loaded" if live["rc"] == 0 else live["err"].strip())
    port = re.search(rf"dport {mysql['port']} ip saddr (.*) accept", live["out"])
    let_in = [
        ipaddress.ip_network(word) for word in re.findall(r"[0-9][0-9./]+", port.group(1) if port else "")
    ]
    for host in {entry["host"] for entry in mysql["accounts"]} - {"127.0.0.1"}:
        if re.fullmatch(r"[0-9.]+", host):
            same = any(ipaddress.ip_address(host) in network for network in let_in)
            compare("the firewall lets in", host, ", ".join(map(str, let_in)), same=same)
    compare("the firewall turns away the rest", True, "reject with tcp reset" in live["out"])


if OTHERS:

    @pytest.mark.parametrize("name", OTHERS)
    def test_a_server_of_somebody_elses_holds_the_plan(name):
        mysql, plan = declared(name), load()["hosts"][name]["plan"]["server"]
        live = int(mysql["variables"]["max_connections"])
        assert live >= plan["connections_total"], (
            f"{name}: max_connections {live}, planned {plan['connections_total']}"
        )
