"""Small adapters of roles/mysql: the role's own settings, and the accounts as the module wants them."""

import ipaddress
import re

from ansible.errors import AnsibleFilterError

GROUP, TITLE = "server", "Certificate, administrator's door, and what is closed"
TLS_VERSIONS = "TLSv1.2,TLSv1.3"
FILES = "/var/lib/mysql-files"  # MySQL's packages make it


def _row(name, value, reason, dynamic=False, compare="equal", variable=""):
    return {
        "name": name,
        "variable": name if variable == "" else variable,
        "value": value,
        "file_value": ("OFF", "ON")[value] if isinstance(value, bool) else str(value),
        "origin": "derived",
        "reason": reason,
        "dynamic": dynamic,
        "compare": compare,
        "role_variable": "mysql_extra_settings",
        "section": "mysqld",
        "group": GROUP,
        "kind": "behaviour",
        "article": None,
    }


def mysql_with_door(resolved, tls_path, port, connections):
    """Adds what this role itself decides. A name in mysql_extra_settings wins over ours."""
    mysql = resolved["flavor"] == "mysql"
    why = "TLS for other hosts, by an authority of our own"
    rows = [
        _row("ssl_ca", f"{tls_path}/ca.pem", why, mysql, "normalised"),
        _row("ssl_cert", f"{tls_path}/server-cert.pem", why, mysql, "normalised"),
        _row("ssl_key", f"{tls_path}/server-key.pem", why, mysql, "normalised"),
        _row("tls_version", TLS_VERSIONS, "nothing older than TLS 1.2", mysql, "normalised"),
    ]
    outside = "a client that is told to read its own files could be made to send any of them"
    rows += [
        _row("local_infile", False, outside, True),
        _row(
            "secure_file_priv",
            FILES,
            "LOAD DATA and INTO OUTFILE reach this folder only",
            False,
            "normalised",
        ),
    ]
    if not mysql:  # off in every MySQL since 8.0
        links = "a link in the data directory could lead a table's statements to any file"
        rows.append(_row("symbolic_links", False, links, variable="have_symlink"))
    door = "the administrator gets in when all connections are taken"
    if mysql:
        rows += [
            _row("admin_address", "127.0.0.1", door),
            _row("admin_port", port, door),
            _row("create_admin_listener_thread", True, door),
            _row("mysqlx_bind_address", "127.0.0.1", "the X protocol is nobody's business outside"),
        ]
    else:
        rows += [
            _row("extra_port", port, door),
            _row("extra_max_connections", connections, door, True),
        ]
    have = {row["name"].replace("-", "_") for row in resolved["settings"]}
    own = [row for row in rows if row["name"] not in have]
    return {
        **resolved,
        "settings": resolved["settings"] + own,
        "groups": {**resolved["groups"], GROUP: TITLE},
    }


def mysql_value(resolved, name, default=None):
    """One setting's value; the article writes /var/run, which is /run."""
    for row in resolved["settings"]:
        if row["name"].replace("-", "_") == name and row.get("section", "mysqld") == "mysqld":
            value = row["value"]
            if isinstance(value, str) and value.startswith("/var/run/"):
                return value[len("/var") :]
            return value
    return default


def mysql_places(places, resolved):
    """What is where, by the settings themselves."""
    return {
        **places,
        "socket": mysql_value(resolved, "socket", "/run/mysqld/mysqld.sock"),
        "port": mysql_value(resolved, "port", 3306),
        "datadir": mysql_value(resolved, "datadir", "/var/lib/mysql"),
    }


def mysql_folders(resolved):
    """Folders that must be there, and the server's, before it starts."""
    found = []
    for row in resolved["settings"]:
        name, value = row["name"].replace("-", "_"), row["value"]
        if (
            not isinstance(value, str)
            or not value.startswith("/")
            or row.get("section", "mysqld") != "mysqld"
        ):
            continue
        if name in ("log_error", "slow_query_log_file", "general_log_file"):
            found.append(value.rsplit("/", 1)[0])
        elif name in ("secure_file_priv", "datadir") and value.rstrip("/") != "/var/lib/mysql":
            # the package makes the usual one
            found.append(value.rstrip("/"))
    return sorted(set(found))


# The process itself has CAP_IPC_LOCK at most. The other capabilities are for the scripts that a unit runs as
# root before and after it, which look into its folders and become its user.
SANDBOX = """NoNewPrivileges=true
ProtectSystem=full
PrivateDevices=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
LockPersonality=true
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
CapabilityBoundingSet=
CapabilityBoundingSet=CAP_IPC_LOCK CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""
HOMES, READ_ONLY, SHARED = ("/home", "/root", "/run/user"), ("/usr", "/boot", "/etc"), ("/tmp", "/var/tmp")  # noqa: S108
# Of the settings that name a path: what the server only reads.
READS = re.compile(
    r"^(basedir|lc_messages_dir|plugin_dir|character_sets_dir|ssl_.*|admin_ssl_.*|init_file|wsrep_.*)$"
)
FOLDERS = re.compile(r"dir$|^(innodb_directories|innodb_log_group_home_dir|secure_file_priv)$")


def _below(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)


def mysql_sandbox(resolved, wanted=True):
    """The unit's sandbox, with room for the folders that the settings name."""
    if not wanted:
        return ""
    writes, homes, shared = set(), False, False
    for row in resolved["settings"]:
        name, value = row["name"].replace("-", "_"), row["value"]
        if not isinstance(value, str) or row.get("section", "mysqld") != "mysqld":
            continue
        for path in re.split("[:;]", value):
            path = path.rstrip("/")
            if not path.startswith("/"):
                continue
            homes = homes or _below(path, HOMES)
            # A file in a private /tmp is nowhere to be found; temporary files are nobody else's.
            shared = shared or (_below(path, SHARED) and not (name == "tmpdir" and path in SHARED))
            if _below(path, HOMES + READ_ONLY) and not READS.match(name):
                writes.add(path if FOLDERS.search(name) else path.rpartition("/")[0])
    lines = [f"ProtectHome={'read-only' if homes else 'true'}", f"PrivateTmp={'false' if shared else 'true'}"]
    lines += [f"ReadWritePaths=-{path}" for path in sorted(writes)]
    return SANDBOX + "\n".join(lines) + "\n"


def mysql_accounts(planned, names, passwords, databases, privileges, server_privileges, door_tls=True):
    """The planned accounts with their rights, and the operator's. A declaration has no `passwords`."""
    rows = []
    own = [{"role": "operator", "host": host} for host in ("localhost", "127.0.0.1")]
    roles = {entry.get("role") for entry in planned}
    if "monitor" not in roles:
        own.append({"role": "monitor", "host": "localhost"})
    looks = ("monitor", "operator") if "cluster" in roles else ("monitor",)
    for entry in [*planned, *own]:
        role = entry.get("role")
        if role not in names:
            raise AnsibleFilterError(
                f"mysql_plan: the account {entry} has no known role ({', '.join(names)})"
            )
        rows.append(
            {
                "name": entry.get("name") or names[role],
                "host": entry["host"],
                "role": role,
                "max_user_connections": int(entry.get("max_user_connections", 0)),
                "require_tls": bool(entry.get("require_tls", False)),
                "databases": [d["name"] for d in databases] if role in privileges else [],
                "more_databases": ["performance_schema"] if role in looks else [],
                "privileges": privileges.get(role, []),
                "server_privileges": server_privileges.get(role, []),
            }
        )
        if passwords:  # for the module, which knows accounts and no roles
            rows[-1]["password"] = passwords[role]
            del rows[-1]["role"]
    return rows


def _network(host):
    """What an account's host is to a packet filter; None for this host itself."""
    if host in ("localhost", "127.0.0.1", "::1", ""):
        return None
    if re.match(r"^(\d+\.){1,3}%$", host):
        parts = host.split(".")[:-1]
        return ".".join(parts + ["0"] * (4 - len(parts))) + f"/{8 * len(parts)}"
    return str(ipaddress.ip_network(host, strict=False))


def mysql_firewall(declared, networks, others=()):
    """nft's table for a declared server: its accounts' hosts, and NETWORKS, reach its port."""
    given = [(f"account {entry['name']}@{entry['host']}", entry["host"]) for entry in declared["accounts"]]
    given += [(f"mysql_other_users {entry['name']}", entry.get("host", "%")) for entry in others]
    given += [("mysql_firewall_networks", str(network)) for network in networks]
    found = {4: set(), 6: set()}
    for what, host in given:
        try:
            network = _network(host)
        except ValueError:
            raise AnsibleFilterError(
                f"mysql_firewall=true: {what}: {host} is no address or network, and a packet filter knows no "
                "other; mend: give it an address, or set mysql_firewall: false"
            ) from None
        if network:
            found[ipaddress.ip_network(network).version].add(ipaddress.ip_network(network))
    lines = [
        f"        tcp dport {declared['port']} {family} saddr "
        f"{{ {', '.join(map(str, ipaddress.collapse_addresses(found[version])))} }} accept"
        for version, family in ((4, "ip"), (6, "ip6"))
        if found[version]
    ]
    return "\n".join(
        [
            "# Ansible managed: roles/mysql",
            "table inet mysql_role {}",  # so that there is one to delete
            "delete table inet mysql_role",
            "table inet mysql_role {",
            "    chain input {",
            "        type filter hook input priority filter; policy accept;",
            '        iif "lo" accept',
            *lines,
            f"        tcp dport {{ {declared['port']}, {declared['admin_port']} }} reject with tcp reset",
            "    }",
            "}",
            "",
        ]
    )


class FilterModule:
    def filters(self):
        return {
            "mysql_with_door": mysql_with_door,
            "mysql_value": mysql_value,
            "mysql_places": mysql_places,
            "mysql_folders": mysql_folders,
            "mysql_sandbox": mysql_sandbox,
            "mysql_firewall": mysql_firewall,
            "mysql_accounts": mysql_accounts,
        }
