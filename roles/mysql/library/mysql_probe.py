#!/usr/bin/python
"""Everything roles/mysql wants to know about a host, in one round trip and without a change."""

import calendar
import os
import re
import shutil
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import (
    FIREWALL,
    Client,
    SqlError,
    client_file,
    option_files,
    read_text,
    run,
    server_groups,
    soft_nofile,
    unit_state,
)

DOCUMENTATION = """
module: mysql_probe
short_description: What is there of a MySQL or MariaDB server
description:
  - Reads packages, data directory, limits, the running server, its accounts and its certificate.
  - Changes nothing.
options:
  flavor: {description: Wanted server., type: str, choices: [auto, mysql, mariadb], default: auto}
  repository: {description: Is there a repository of the user's?, type: bool, default: false}
  datadir: {description: The data directory., type: path, default: /var/lib/mysql}
  socket: {description: The server's Unix socket., type: path, default: /run/mysqld/mysqld.sock}
  certificate: {description: The server's certificate., type: path, default: /etc/mysql/tls/server-cert.pem}
  authority: {description: The authority's certificate., type: path, default: /etc/mysql/tls/ca.pem}
  login:
    description: For a server that somebody else runs. Address, port, user, password, authority.
    type: dict
author: [the project]
"""
EXAMPLES = "- mysql_probe:\n    flavor: auto\n"
RETURN = "probe: {description: what was found, type: dict, returned: always}"

BINARIES = {"mysql": "/usr/sbin/mysqld", "mariadb": "/usr/sbin/mariadbd"}
UNITS = {"mysql": "mysql.service", "mariadb": "mariadb.service"}
SERVERS = {
    "mysql": re.compile(r"^mysql-(community-)?server(-\d[\d.]*)?$"),
    "mariadb": re.compile(r"^mariadb-server(-\d[\d.]*)?$"),
}
# What a distribution brings, for a plan on a host whose package lists are still empty.
ASSUMED = {
    ("debian", "12"): ("mariadb", "10.11.18"),
    ("debian", "13"): ("mariadb", "11.8.6"),
    ("ubuntu", "24.04"): ("mysql", "8.0.42"),
}
ASSUMED_ELSE = {"mysql": "9.7.4", "mariadb": "11.8.6"}


def os_release():
    text = read_text("/etc/os-release") or ""
    pairs = (line.partition("=")[::2] for line in text.splitlines())
    return {key: value.strip('"') for key, value in pairs}


def installed_packages():
    """{flavor: (package, state, version)}; a state other than 'ii' is an installation that was cut off."""
    form = "${Package} ${db:Status-Abbrev} ${Version}\\n"
    done = run(["dpkg-query", "-W", "-f", form, "mysql-*server*", "mariadb-server*"])
    found = {}
    for line in done.stdout.splitlines():
        parts = line.split()
        for flavor, pattern in SERVERS.items():
            there = len(parts) == 3 and pattern.match(parts[0]) and parts[1][1] not in "nc"
            # of a package and its metapackage the one that is not whole counts
            if there and (flavor not in found or found[flavor][1].startswith("ii")):
                found[flavor] = tuple(parts)
    return found


def candidates():
    done = run(["apt-cache", "policy", "mysql-server", "mariadb-server"])
    found, name = {}, None
    for line in done.stdout.splitlines():
        if not line.startswith(" "):
            name = line.rstrip(":").removesuffix("-server")
        elif "Candidate:" in line and "(none)" not in line:
            found[name] = line.split()[1]
    return found


def upstream(version):
    """'1:11.8.6-0+deb13u1' -> '11.8.6', 'Ver 9.7.4-2 for Linux' -> '9.7.4'"""
    match = re.search(r"(?:^|[\s:])(\d+\.\d+(?:\.\d+)?)", version or "")
    return match.group(1) if match else None


def binary_version(flavor):
    for path in (BINARIES[flavor], "/usr/sbin/mysqld"):
        if os.path.exists(path):
            done = run([path, "--no-defaults", "--version"])
            text = done.stdout.partition("Ver")[2]
            if text and ("MariaDB" in text) == (flavor == "mariadb"):
                return upstream(text), path
    return None, None


def memory_bytes():
    """What the host's processes may have together: the machine's or the container's."""
    found = []
    match = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo") or "", re.MULTILINE)
    if match:
        found.append(int(match.group(1)) * 1024)
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = (read_text(path) or "").strip()
        if text.isdigit():
            found.append(int(text))
    return min(found) if found else None


def nofile_hard():
    """The highest LimitNOFILE that systemd can give a unit here."""
    hard = None
    for line in (read_text("/proc/1/limits") or "").splitlines():
        if line.startswith("Max open files"):
            word = line.split()[4]
            hard = None if word == "unlimited" else int(word)
    highest = int((read_text("/proc/sys/fs/nr_open") or "1048576").strip())
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", read_text("/proc/1/status") or "", re.MULTILINE)
    may_raise = bool(match and int(match.group(1), 16) >> 24 & 1)
    whole = (read_text("/proc/1/uid_map") or "").split() == ["0", "0", "4294967295"]
    return highest if hard is None or (may_raise and whole) else min(hard, highest)


def certificate(path, authority):
    if not os.path.exists(path):
        return {"present": False}
    text = run(["openssl", "x509", "-in", path, "-noout", "-enddate", "-ext", "subjectAltName"]).stdout
    match = re.search(r"notAfter=(.+)", text)
    until = calendar.timegm(time.strptime(match.group(1).strip(), "%b %d %H:%M:%S %Y %Z")) if match else 0
    names = [
        entry.strip().split(":", 1)[1]
        for entry in text.partition("Name:")[2].replace("\n", ",").split(",")
        if ":" in entry
    ]
    uses = run(["openssl", "x509", "-in", path, "-noout", "-ext", "extendedKeyUsage"]).stdout
    checked = run(["openssl", "verify", "-CAfile", authority, path]).returncode == 0
    return {
        "present": True,
        "days": int((until - time.time()) // 86400),
        "names": sorted(set(names)),
        "client": "Client Authentication" in uses,
        "verified": checked,
        "authority": read_text(authority) or "",
    }


def live_server(client):
    try:
        variables, accounts = client.query(
            "SELECT @@version, @@lower_case_table_names, @@datadir, @@max_connections, @@port",
            "SELECT User, Host FROM mysql.user ORDER BY User, Host",
        )
    except SqlError as error:
        return None, str(error)
    keys = ("version", "lower_case_table_names", "datadir", "max_connections", "port")
    live = dict(zip(keys, variables[0], strict=True))
    for key in keys[1:2] + keys[3:]:
        live[key] = int(live[key])
    live["accounts"] = [f"{user}@{host}" for user, host in accounts]
    return live, ""


def ask_elsewhere(login, *statements):
    """By the command-line client, or by a Python library where this machine has that alone."""
    if shutil.which("mysql") or shutil.which("mariadb"):
        with client_file(login) as path:
            return Client(defaults_file=path).query(*statements)
    try:
        import MySQLdb
    except ImportError:
        raise SqlError("neither a mysql client nor Python's MySQLdb is on this machine") from None
    tls = {"ssl_mode": "VERIFY_CA", "ssl": {"ca": login["authority"]}} if login.get("authority") else {}
    try:
        connection = MySQLdb.connect(
            host=login["address"],
            port=int(login["port"]),
            user=login["user"],
            passwd=login["password"],
            **tls,
        )
    except MySQLdb.Error as error:
        raise SqlError(str(error)) from None
    results = []
    for statement in statements:
        cursor = connection.cursor()
        cursor.execute(statement)
        results.append([[str(field) for field in row] for row in cursor.fetchall()])
    return results


def elsewhere(module, login):
    """A server that somebody else runs: only what the account given can see."""
    try:
        rows = ask_elsewhere(login, "SELECT @@version, @@version_comment", "SHOW GLOBAL VARIABLES")
    except SqlError as error:
        module.fail_json(
            msg=f"{login.get('address')}:{login.get('port')}: the account {login.get('user')} cannot use "
            f"the server: {error}; mend: set mysql_address, mysql_port, mysql_app_user, "
            "mysql_app_password and mysql_ca_file to what its owner gave you"
        )
    version, comment = rows[0][0]
    flavor = "mariadb" if "mariadb" in (version + comment).lower() else "mysql"
    return {"flavor": flavor, "version": upstream(version), "variables": dict(rows[1])}


def main():
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["auto", "mysql", "mariadb"], "default": "auto"},
            "repository": {"type": "bool", "default": False},
            "datadir": {"type": "path", "default": "/var/lib/mysql"},
            "socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "certificate": {"type": "path", "default": "/etc/mysql/tls/server-cert.pem"},
            "authority": {"type": "path", "default": "/etc/mysql/tls/ca.pem"},
            "login": {"type": "dict", "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if wanted["login"]:
        module.exit_json(probe=elsewhere(module, wanted["login"]))

    packages = installed_packages()
    flavor = wanted["flavor"]
    if flavor != "auto" and packages and flavor not in packages:
        other = next(iter(packages.values()))
        module.fail_json(
            msg=f"mysql_flavor={flavor}: {other[0]} {other[2]} is installed on this host; mend: set "
            f"mysql_flavor: {next(iter(packages))}, or move the data and remove that package first"
        )
    if flavor == "auto" and wanted["repository"] and not packages:
        module.fail_json(
            msg="mysql_flavor=auto: mysql_repository is set, and nothing tells which server is in it; mend: "
            "set mysql_flavor to mysql or mariadb"
        )
    release = os_release()
    assumed = ASSUMED.get((release.get("ID"), release.get("VERSION_ID")))
    offered = {} if packages else candidates()
    if flavor == "auto":
        if packages:
            flavor = next(iter(packages))
        elif offered:
            flavor = "mysql" if "mysql" in offered else "mariadb"
        else:
            flavor = assumed[0] if assumed else "mysql"

    package = packages.get(flavor)
    version, binary = binary_version(flavor)
    source = "binary"
    if not version:
        source = "candidate"
        version = upstream(offered.get(flavor))
    if not version:
        source = "assumed"
        version = assumed[1] if assumed and assumed[0] == flavor else ASSUMED_ELSE[flavor]

    unit = unit_state(UNITS[flavor], "ActiveState", "MainPID", "UnitFileState", "LoadState")
    running = unit.get("ActiveState") == "active"
    live, trouble = live_server(Client(socket=wanted["socket"])) if running else (None, "")
    datadir = (live or {}).get("datadir", wanted["datadir"]).rstrip("/")
    initialised = os.path.isdir(os.path.join(datadir, "mysql")) or os.path.exists(
        os.path.join(datadir, "mysql.ibd")
    )
    case = None
    if live:
        case = live["lower_case_table_names"]
    elif initialised:
        found, _ = option_files(server_groups(flavor, version))
        words = [value for name, value, _, _ in found if name == "lower_case_table_names"]
        case = int(words[-1]) if words and words[-1].isdigit() else 0

    module.exit_json(
        probe={
            "flavor": flavor,
            "version": version,
            "version_source": source,
            "binary": binary or BINARIES[flavor],
            "unit": UNITS[flavor],
            "installed": bool(package) and package[1].startswith("ii"),
            "cut_off": bool(package) and not package[1].startswith("ii"),
            "running": running,
            "trouble": trouble,
            "live": {key: value for key, value in (live or {}).items() if key != "accounts"},
            "accounts": (live or {}).get("accounts", []),
            "datadir": datadir,
            "datadir_initialised": initialised,
            "nofile": soft_nofile(unit.get("MainPID", "0")) if running else None,
            "firewall": os.path.exists(FIREWALL),
            "tls": certificate(wanted["certificate"], wanted["authority"]),
            "host": {
                "memory_bytes": memory_bytes(),
                "nofile_hard": nofile_hard(),
                "cpus": os.cpu_count(),
                "datadir_initialised": initialised,
                "live_lower_case_table_names": case,
            },
        }
    )


if __name__ == "__main__":
    main()
