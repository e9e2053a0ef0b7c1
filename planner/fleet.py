"""The whole fleet on paper: who connects to which server, how often at once, and whether it works out.

a process      holds at most pool_size + max_overflow connections to each alias
a service      processes x that x aliases x generations alive at once in a release
an application the sum of its services + management commands + slack for connections being torn down
               = MAX_USER_CONNECTIONS of its account (one account for each host, as the server counts
               per user@host)
a server       the sum of all accounts' limits + monitoring + backup + replication + other users
               + the administrators' reserve  <=  max_connections
"""

import ipaddress
import re

from planner import catalogue, cluster, formats, schema, settings, units, versions
from planner.errors import PlanError, problem

MAX_CONNECTIONS = 100000
SOCKET = "/run/mysqld/mysqld.sock"
# What holds where neither the inventory nor a role's defaults say anything.
FALLBACK = {
    "django_app_workers": 2,
    "django_app_threads": 8,
    "django_app_pool_size": 20,
    "django_app_pool_max_overflow": 0,
    "django_app_pool_recycle": 3600,
    "django_app_pool_timeout": 10,
    "django_app_lock_wait_timeout": 20,
    "django_app_statement_timeout": 0,
    "django_app_graceful_timeout": 30,
    "django_app_release_overlap": 2,
    "django_app_management_connections": 2,
    "django_app_database_aliases": 1,
    "django_app_services": [],
    "web_read_timeout": 60,
    "mysql_manage": True,
    "mysql_firewall": False,
    "mysql_fit": True,
    "mysql_flavor": "auto",
    "mysql_other_users": [],
    "budget_memory_share": 0.8,
    "budget_reserve_connections": 10,
    "budget_monitor_connections": 5,
    "budget_backup_connections": 2,
    "budget_replication_connections": 0,
    "budget_migrate_connections": 3,
    "budget_slack_percent": 10,
    "budget_worker_memory": "128M",
    "budget_host_memory": "",
    "budget_disk": "",
    "budget_write_rate": "10K",
    "backup_repository": "",
    "backup_memory": "768M",
    "backup_proof_max_age": 50,
}
# What is asked of a server that others run: where it is, and what it can hold.
FOREIGN = ("mysql_max_connections", "mysql_wait_timeout", "mysql_port", "mysql_socket")
NOT_OURS = ("mysql_extra_settings", "mysql_fit", "mysql_profile")
PROXY_PORT, REPLICA_PORT = 3316, 3317
WEB_MEMORY = 64 * units.MIB
BACKUP_CONNECTIONS = 4  # the limit of the account that roles/backup makes
STOP_MARGIN = 10  # seconds between gunicorn's graceful time and the unit's TimeoutStopSec


class Host:
    """One host's variables: what is set, what is the default, where it came from."""

    def __init__(self, name, own, defaults, origin):
        self.name, self.own, self.defaults, self.origin_of = name, own, defaults, origin

    def explicit(self, variable):
        return self.own.get(variable)

    def get(self, variable):
        value = self.own.get(variable)
        if value is None:
            value = self.defaults.get(variable)
        return FALLBACK.get(variable) if value is None else value

    def number(self, variable):
        """An int; what is no number was refused already and counts as its default."""
        for value in (self.own.get(variable), self.defaults.get(variable), FALLBACK.get(variable)):
            try:
                if value is not None:
                    return schema.typed(value, {"type": "int"})
            except ValueError:
                continue
        return 0

    def truth(self, variable):
        try:
            return catalogue.boolean(self.get(variable))
        except ValueError:
            return bool(FALLBACK.get(variable))

    def bytes(self, variable):
        try:
            return units.size(self.get(variable)) or None
        except ValueError:
            return None

    def rows(self, variable):
        value = self.get(variable)
        return [row for row in value if hasattr(row, "get")] if isinstance(value, list | tuple) else []

    def origin(self, variable):
        if self.own.get(variable) is not None:
            return self.origin_of(self.name, variable) or "inventory"
        return "default"

    @property
    def facts(self):
        facts = self.own.get("ansible_facts")
        return facts if hasattr(facts, "get") else {}

    @property
    def memory(self):
        declared, seen = self.bytes("budget_host_memory"), self.facts.get("memtotal_mb")
        found = [count for count in (declared, int(seen) * units.MIB if seen else None) if count]
        return min(found) if found else None

    @property
    def cpus(self):
        for value in (
            self.explicit("budget_cpus"),
            self.facts.get("processor_nproc"),
            self.facts.get("processor_vcpus"),
        ):
            if value and str(value).isdigit():
                return int(value)
        return None

    def address(self, prefix):
        found = next(
            (self.own[v] for v in (f"{prefix}_address", "ansible_host") if self.own.get(v)), self.name
        )
        try:  # as a server writes it: 2001:DB8:0::1 is 2001:db8::1
            return str(ipaddress.ip_address(str(found).strip("[]")))
        except ValueError:
            return str(found)


class Application:
    """One application host and what it may open."""

    def __init__(self, host, server, proxied=False, replica=False):
        # proxied: the server is a cluster, reached by the proxy on the application's own host;
        # replica: a pool of its own reads from the other nodes, all of which may be one node in the end
        self.host, self.server, self.proxied, self.replica = host, server, proxied, replica
        self.name = host.name
        self.workers = host.number("django_app_workers")
        self.threads = host.number("django_app_threads")
        self.pool_size = host.number("django_app_pool_size")
        self.max_overflow = host.number("django_app_pool_max_overflow")
        self.recycle = host.number("django_app_pool_recycle")
        self.timeout = host.number("django_app_pool_timeout")
        self.overlap = host.number("django_app_release_overlap")
        self.management = host.number("django_app_management_connections")
        self.aliases = host.number("django_app_database_aliases")
        self.migrate = host.number("budget_migrate_connections")
        self.slack_percent = host.number("budget_slack_percent")

    @property
    def same_host(self):
        return self.server is not None and self.server.name == self.name and not self.proxied

    def services(self, pool_size=None):
        """Rows of the sum: gunicorn first, then what django_app_services lists."""
        pool = self.pool_size if pool_size is None else pool_size
        rows = [
            {
                "what": "gunicorn",
                "processes": self.workers,
                "threads": self.threads,
                "pool_size": pool,
                "max_overflow": self.max_overflow,
                "aliases": self.aliases + self.replica,
                "overlap": self.overlap,
                "memory": self.host.bytes("budget_worker_memory") or 0,
            }
        ]
        for service in self.host.rows("django_app_services"):
            number = lambda key, other, service=service: _whole(service.get(key), other)  # noqa: E731
            try:
                memory = units.size(service.get("memory") or self.host.get("budget_worker_memory"))
            except ValueError:
                memory = 0
            size = number("pool_size", self.pool_size)
            if pool_size is not None and service.get("pool_size") is None:
                size = pool_size
            rows.append(
                {
                    "what": str(service.get("name", "service")),
                    "processes": number("processes", 1),
                    "threads": number("threads", 1),
                    "pool_size": size,
                    "max_overflow": number("max_overflow", self.max_overflow),
                    "aliases": number("aliases", self.aliases) + self.replica,
                    "overlap": number("overlap", 1),
                    "memory": memory,
                }
            )
        for row in rows:
            each = max(0, row["pool_size"]) + max(0, row["max_overflow"])
            row["connections"] = row["processes"] * each * row["aliases"] * row["overlap"]
        return rows

    def limit(self, pool_size=None):
        """MAX_USER_CONNECTIONS of this host's account, and its parts."""
        pooled = sum(row["connections"] for row in self.services(pool_size))
        slack = max(2, -(-pooled * self.slack_percent // 100))
        management = self.management * (1 + self.replica)
        return {
            "pooled": pooled,
            "management": management,
            "slack": slack,
            "total": pooled + management + slack,
        }

    @property
    def memory_taken(self):
        return sum(row["processes"] * row["overlap"] * row["memory"] for row in self.services())

    @property
    def longest_request(self):
        """Seconds: waiting for a connection, for a lock, and for the statement."""
        return self.timeout + self.lock_wait + self.host.number("django_app_statement_timeout")

    @property
    def lock_wait(self):
        return self.host.number("django_app_lock_wait_timeout")


def _plain(path):
    """/var/run is /run on every system of today."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _loopback(address):
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _whole(value, other):
    try:
        return other if value is None else schema.typed(value, {"type": "int"})
    except ValueError:
        return other


class Fleet:
    def __init__(self, hosts, groups, defaults=None, origin=None, checker=None, warnings=(), errors=()):
        self.checker = checker or schema.Checker()
        known = dict(self.checker.defaults)
        known.update(defaults or {})
        origin = origin or (lambda host, variable: None)
        self.hosts = {name: Host(name, dict(own or {}), known, origin) for name, own in hosts.items()}
        self.groups = {key: list(groups.get(key) or []) for key in ("database", "application", "web")}
        self.errors, self.warnings = list(errors), list(warnings)
        self.servers, self.applications, self.web = {}, {}, {}

    def refuse(self, host, variable, value, message, mend, set_to=None, on=None):
        self.errors.append(problem(host, variable, value, message, mend, set_to, on))

    def warn(self, host, text):
        self.warnings.append(f"{host}: {text}")

    # --- the steps --------------------------------------------------------------------------------------
    def run(self):
        self.read_groups()
        self.check_types()
        self.read_cluster()
        self.read_applications()
        for application in self.applications.values():
            self.check_pool(application)
            self.check_address(application)
            self.check_timeouts(application)
        self.check_addresses()
        self.check_web()
        self.check_ports()
        plans = {name: self.plan_server(self.hosts[name]) for name in self.servers}
        self.check_application_memory()
        return self.result(plans)

    def read_groups(self):
        for group, names in self.groups.items():
            for name in names:
                if name not in self.hosts:
                    self.hosts[name] = Host(name, {}, self.checker.defaults, lambda host, variable: None)
            if len(set(names)) != len(names):
                self.groups[group] = list(dict.fromkeys(names))
        self.servers = {name: [] for name in self.groups["database"]}
        if not any(self.groups.values()):
            self.refuse(
                "",
                "groups",
                "database, application, web",
                "no host is in any of them, and nothing would be deployed",
                "put your hosts into these groups, by these names",
            )
        if self.groups["application"] and not self.servers:
            self.refuse(
                "",
                "budget_database_hosts",
                "[]",
                "no host has the database, and there are applications",
                "put a host into the group database (with mysql_manage: false where others run it)",
            )

    def check_types(self):
        for host in self.hosts.values():
            for variable in list(host.own):
                if variable == "ansible_facts":
                    continue
                found = self.checker.check(host.name, str(variable), host.own[variable])
                if found:  # said once; from here on its default counts
                    self.errors += found
                    del host.own[variable]
        share = [(host, host.explicit("budget_memory_share")) for host in self.hosts.values()]
        for host, value in share:
            if value is None:
                continue
            try:
                fine = 0.1 <= float(value) <= 0.95
            except (TypeError, ValueError):
                continue  # its type was refused already
            if not fine:
                self.refuse(
                    host.name,
                    "budget_memory_share",
                    value,
                    "is not between 0.1 and 0.95",
                    "set budget_memory_share to 0.8",
                    {"budget_memory_share": 0.8},
                )

    def read_cluster(self):
        self.cluster = cluster.Cluster(self)
        self.cluster.check()
        everybody = []  # any node may have to serve all of them
        for node in self.cluster.nodes:
            self.servers[node.name] = everybody

    def server_of(self, host):
        """The database host that an application host uses; of a cluster, the node that stands for all."""
        chosen = host.explicit("budget_server")
        names = list(self.servers)
        if chosen is not None and names:
            if chosen in self.servers:
                return self.cluster.leader if self.cluster.holds(chosen) else self.hosts[chosen]
            better = schema.difflib.get_close_matches(str(chosen), names, n=1) or names[:1]
            self.refuse(
                host.name,
                "budget_server",
                chosen,
                "is not a database host; there are " + ", ".join(names),
                f"set budget_server to {better[0]}",
                {"budget_server": better[0]},
            )
            return None
        if self.cluster:
            return self.cluster.leader
        if host.name in self.servers:
            return host
        if len(names) == 1:
            return self.hosts[names[0]]
        if names:
            self.refuse(
                host.name,
                "budget_server",
                None,
                f"which of {len(names)} database hosts it uses is not said",
                f"set budget_server to one of {', '.join(names[:5])}",
                {"budget_server": names[0]},
            )
        return None

    def read_applications(self):
        for name in self.groups["application"]:
            host = self.hosts[name]
            reads = self.cluster.replica_max_lag > 0
            application = Application(host, self.server_of(host), bool(self.cluster), reads)
            self.applications[name] = application
            if application.server:
                self.servers[application.server.name].append(application)

    # --- one application --------------------------------------------------------------------------------
    def check_pool(self, application):
        host = application.host
        rows = [("django_app_pool_size", application.pool_size, None)]
        rows += [
            ("django_app_services", row["pool_size"], row["what"])
            for row in application.services()[1:]
            if row["pool_size"] != application.pool_size
        ]
        for variable, size, service in rows:
            if size >= 1:
                continue
            what = "no limit: SQLAlchemy then opens as many connections as it is asked for"
            what = what if size == 0 else "is not a size of a pool"
            if service:
                fixed = [{**dict(row), "pool_size": 5} for row in host.rows(variable)]
                self.refuse(
                    host.name,
                    variable,
                    f"{service}: pool_size {size}",
                    what,
                    f"set pool_size of {service} to 5",
                    {variable: fixed},
                )
            else:
                better = max(1, min(application.threads, 20))
                self.refuse(
                    host.name, variable, size, what, f"set {variable} to {better}", {variable: better}
                )
        if application.max_overflow < 0:
            self.refuse(
                host.name,
                "django_app_pool_max_overflow",
                application.max_overflow,
                "no limit: the pool would open as many connections as it is asked for",
                "set django_app_pool_max_overflow to 0",
                {"django_app_pool_max_overflow": 0},
            )
        for row in application.services()[1:]:
            if row["max_overflow"] < 0 and application.max_overflow >= 0:
                fixed = [{**dict(entry), "max_overflow": 0} for entry in host.rows("django_app_services")]
                self.refuse(
                    host.name,
                    "django_app_services",
                    f"{row['what']}: max_overflow {row['max_overflow']}",
                    "no limit: the pool would open as many connections as it is asked for",
                    f"set max_overflow of {row['what']} to 0",
                    {"django_app_services": fixed},
                )
        names = [row["what"] for row in application.services()[1:]]
        for position, name in enumerate(names):
            # a part of a unit's name; next and trial are the units of a release that changes over
            fit = re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name) and name not in ("next", "trial")
            if fit and name not in names[:position]:
                continue
            fixed = [dict(entry) for entry in host.rows("django_app_services")]
            fixed[position]["name"] = better = f"service-{position + 1}"
            self.refuse(
                host.name,
                "django_app_services",
                f"name {name}",
                "names a systemd unit: small letters, digits and dashes, 64 at most, once on a host, "
                "not next or trial",
                f"set it to another, such as {better}",
                {"django_app_services": fixed},
            )
        if application.recycle < 1:
            self.refuse(
                host.name,
                "django_app_pool_recycle",
                application.recycle,
                "connections would never be replaced, and the server closes them after wait_timeout",
                "set django_app_pool_recycle to 3600",
                {"django_app_pool_recycle": 3600},
            )
        for row in application.services():
            room = max(0, row["pool_size"]) + max(0, row["max_overflow"])
            # Given back after each statement, a connection serves several threads that also compute.
            sharing = 4 if host.get("django_app_pool_release") == "statement" else 1
            if 0 < room * sharing < row["threads"]:
                self.warn(
                    host.name,
                    f"{row['what']}: {row['threads']} threads share {room} connections; "
                    f"under full load a request waits up to {application.timeout} s for one",
                )
        address = host.address("django_app")
        if application.server and not application.same_host and "." not in address and ":" not in address:
            self.warn(
                host.name,
                f"its accounts are limited to the name {address}; "
                "where the server cannot resolve it, set django_app_address",
            )

    def check_address(self, application):
        """The application must knock where the server listens."""
        host, server = application.host, application.server
        if server is None or application.proxied or host.explicit("django_app_database_host"):
            return
        listens, knocks = str(server.get("mysql_socket") or SOCKET), host.get("django_app_database_socket")
        knocks = str(knocks or SOCKET)
        if application.same_host and _plain(listens) != _plain(knocks):
            self.refuse(
                host.name,
                "django_app_database_socket",
                knocks,
                f"the server's socket is {listens} (mysql_socket)",
                f"set django_app_database_socket to {listens}",
                {"django_app_database_socket": listens},
            )
        port = host.explicit("django_app_database_port")
        if port is None or application.same_host:
            return
        there = server.number("mysql_port") or 3306
        if _whole(port, there) != there:
            self.refuse(
                host.name,
                "django_app_database_port",
                port,
                f"the server {server.name} listens on {there} (mysql_port)",
                f"set django_app_database_port to {there}",
                {"django_app_database_port": there},
            )

    def check_addresses(self):
        """Accounts are made, and limits counted, for the address that an application comes from."""
        for name, applications in self.servers.items():
            if self.cluster.holds(name) and name != self.cluster.leader.name:
                continue  # of a cluster, all nodes have the same applications
            seen = {}
            for application in applications:
                if application.same_host:
                    continue
                host, address = application.host, application.host.address("django_app")
                what = None
                if _loopback(address):
                    what = f"no server on another host ({name}) sees it come from there"
                elif address in seen:
                    what = f"{seen[address]} has the same address, and the server counts both as one account"
                seen.setdefault(address, application.name)
                if what:
                    self.refuse(
                        host.name,
                        "django_app_address" if host.explicit("django_app_address") else "ansible_host",
                        address,
                        what,
                        f"set django_app_address to the address that {name} sees this host come from",
                    )
                there = application.server.address("mysql")
                if _loopback(there) and not application.proxied:
                    server = application.server
                    self.refuse(
                        server.name,
                        "mysql_address" if server.explicit("mysql_address") else "ansible_host",
                        there,
                        f"{host.name} cannot reach it there",
                        f"set mysql_address of {server.name} to the address it has for other hosts",
                    )
                    break

    def check_timeouts(self, application):
        host, longest = application.host, application.longest_request
        graceful = host.number("django_app_graceful_timeout")
        parts = f"{application.timeout} s for a connection + {application.lock_wait} s for a lock"
        statement = host.number("django_app_statement_timeout")
        if statement:
            parts += f" + {statement} s for the statement"
        if longest > graceful:
            self.refuse(
                host.name,
                "django_app_graceful_timeout",
                graceful,
                f"a request may take {longest} s ({parts}), and a stopping worker is killed before",
                f"set django_app_graceful_timeout to {longest}",
                {"django_app_graceful_timeout": longest},
            )
            graceful = longest
        stop = host.explicit("django_app_stop_timeout")
        if stop is not None and host.number("django_app_stop_timeout") <= graceful:
            better = graceful + STOP_MARGIN
            self.refuse(
                host.name,
                "django_app_stop_timeout",
                stop,
                f"systemd would kill gunicorn before its graceful {graceful} s are over",
                f"set django_app_stop_timeout to {better}",
                {"django_app_stop_timeout": better},
            )
        for name in self.groups["web"]:
            web = self.hosts[name]
            given = web.number("web_read_timeout")
            if given > longest and given >= graceful:
                continue
            better = max(longest + 5, graceful)
            what = (
                f"nginx gives up before the application answers: a request on {host.name} may take "
                f"{longest} s ({parts})"
                if given <= longest
                else f"nginx gives up before gunicorn: {host.name} lets a request end within {graceful} s"
            )
            if not any(e["host"] == name and e["variable"] == "web_read_timeout" for e in self.errors):
                self.refuse(
                    name,
                    "web_read_timeout",
                    given,
                    what,
                    f"set web_read_timeout to {better}",
                    {"web_read_timeout": better},
                )
            else:
                for entry in self.errors:  # one line a web host: the largest of what the applications need
                    if (
                        entry["host"] == name
                        and entry["variable"] == "web_read_timeout"
                        and "set_to" in entry
                    ):
                        most = max(better, _whole(entry["set_to"].get("web_read_timeout"), 0))
                        entry["set_to"] = {"web_read_timeout": most}
                        entry["mend"] = f"set web_read_timeout to {most}"

    def check_web(self):
        if self.groups["web"] and not self.groups["application"]:
            self.warn("fleet", "there are web hosts, and no application behind them")

    def check_ports(self):
        """Two listeners on one port of one host."""
        by_part = {
            "database": ("mysql_port", "mysql_admin_port", "mysql_extra_port"),
            "web": ("web_http_port", "web_https_port", "web_port", "web_tls_port"),
        }
        if self.cluster:
            by_part["database"] += ("mysql_cluster_agent_port",)
            by_part["application"] = ("mysql_cluster_proxy_port", "mysql_cluster_replica_port")
        for host in self.hosts.values():
            seen = {}
            for part, variables in by_part.items():
                if host.name not in self.groups[part]:
                    continue
                for variable in variables:
                    fallback = 3306 if variable == "mysql_port" else None
                    value = _whole(host.get(variable), fallback) if variable in host.own else fallback
                    if value is None:
                        value = _whole(host.defaults.get(variable), None)
                    if not value:
                        continue
                    if value in seen and seen[value] != variable:
                        spare = next(port for port in range(value + 1, value + 100) if port not in seen)
                        self.refuse(
                            host.name,
                            variable,
                            value,
                            f"the same port as {seen[value]}",
                            f"set {variable} to {spare}",
                            {variable: spare},
                        )
                    seen[value] = variable

    # --- one server -------------------------------------------------------------------------------------
    def fixed_rows(self, host):
        """Everybody but the applications."""
        backup = host.number("budget_backup_connections")
        rows = [
            {
                "who": "monitor@localhost",
                "sum": "budget_monitor_connections",
                "connections": host.number("budget_monitor_connections"),
            },
            {
                "who": "backup",
                "sum": "budget_backup_connections",
                "connections": max(backup, BACKUP_CONNECTIONS) if self.backed_up(host) else backup,
            },
        ]
        if self.cluster:
            rows.append(
                {"who": "nodes that join", "sum": self.cluster.kind, "connections": cluster.JOIN_CONNECTIONS}
            )
        replication = host.number("budget_replication_connections")
        if replication:
            rows.append(
                {"who": "replication", "sum": "budget_replication_connections", "connections": replication}
            )
        for user in host.rows("mysql_other_users"):
            rows.append(
                {
                    "who": f"{user.get('name')}@{user.get('host', '%')}",
                    "sum": "mysql_other_users",
                    "connections": max(0, _whole(user.get("connections"), 0)),
                }
            )
        rows.append(
            {
                "who": "administrators",
                "sum": "budget_reserve_connections",
                "connections": host.number("budget_reserve_connections"),
            }
        )
        return rows

    def connections(self, host, pool_size=None):
        """(rows of the sum, the accounts that follow from it)"""
        rows, accounts = [], []
        for application in self.servers[host.name]:
            limit = application.limit(pool_size)
            address = "localhost" if application.same_host else application.host.address("django_app")
            tls = not application.same_host
            for row in application.services(pool_size):
                text = f"{row['processes']} x ({row['pool_size']} + {row['max_overflow']})"
                text += f" x {row['aliases']} aliases" if row["aliases"] != 1 else ""
                text += f" x {row['overlap']} generations" if row["overlap"] != 1 else ""
                rows.append(
                    {
                        "host": application.name,
                        "who": f"app@{address}",
                        "what": row["what"],
                        "sum": text,
                        "connections": row["connections"],
                    }
                )
            rows.append(
                {
                    "host": application.name,
                    "who": f"app@{address}",
                    "what": "management commands",
                    "sum": "set aside",
                    "connections": limit["management"],
                }
            )
            rows.append(
                {
                    "host": application.name,
                    "who": f"app@{address}",
                    "what": "being torn down",
                    "sum": f"{application.slack_percent} %, at least 2",
                    "connections": limit["slack"],
                }
            )
            rows.append(
                {
                    "host": application.name,
                    "who": f"migrate@{address}",
                    "what": "migrations",
                    "sum": "of one run",
                    "connections": application.migrate,
                }
            )
            for role, count in (("app", limit["total"]), ("migrate", application.migrate)):
                accounts.append(
                    {
                        "name": str(host.get(f"mysql_{role}_user") or role),
                        "host": address,
                        "role": role,
                        "max_user_connections": count,
                        "require_tls": tls,
                        "application": application.name,
                    }
                )
        for row in self.fixed_rows(host):
            rows.append({"host": host.name, "what": "", **row})
        accounts.append(
            {
                "name": str(host.get("mysql_monitor_user") or "monitor"),
                "host": "localhost",
                "role": "monitor",
                "max_user_connections": host.number("budget_monitor_connections"),
                "require_tls": False,
            }
        )
        return rows, accounts + self.cluster.accounts()

    def demand(self, host, total):
        """What the fleet asks of one server."""
        applications = self.servers[host.name]
        away = [application.name for application in applications if not application.same_host]
        away += [
            user.get("name")
            for user in host.rows("mysql_other_users")
            if str(user.get("host", "%")) not in ("localhost", "127.0.0.1", "::1")
        ]
        others = 0
        if host.name in self.applications:
            others += self.applications[host.name].memory_taken
        if host.name in self.groups["web"]:
            others += WEB_MEMORY
        backed_up = self.backed_up(host)
        if backed_up:
            others += host.bytes("backup_memory") or 0
        if self.cluster:
            others += cluster.memory(host)
        result = {
            "name": host.name,
            "binary_log": backed_up,
            "connections": total,
            "listen": bool(away) or bool(self.cluster),
            "listen_for": away[:5],
            "memory_others": others,
            "memory_share": _share(host),
        }
        recycles = [application.recycle for application in applications if application.recycle > 0]
        if recycles:
            result["wait_timeout_above"] = max(recycles)
        if host.memory:
            result["memory_bytes"] = host.memory
        if host.explicit("budget_nofile_hard"):
            result["nofile_hard"] = host.number("budget_nofile_hard")
        if host.number("mysql_admin_connections") > 1:
            result["extra_max_connections"] = host.number("mysql_admin_connections")
        return result

    @staticmethod
    def has_repository(host):
        return host.truth("mysql_manage") and bool(str(host.get("backup_repository") or "").strip())

    def backed_up(self, host):
        """Whether backups are taken here; of a cluster, from one node."""
        if self.cluster and self.cluster.holds(host.name):
            return host is self.cluster.keeper
        return self.has_repository(host)

    def candidates(self, host):
        """[(flavor, version, assumed)]: one where it is known, two where a plan on paper cannot know."""
        wish = str(host.get("mysql_flavor") or "auto").lower()
        flavor, version = versions.from_facts(host.facts)
        if self.cluster and wish == "auto":
            wish = cluster.FLAVOR[self.cluster.kind]
        if wish in versions.FLAVORS:
            if wish == flavor:
                return [(flavor, version, False)]
            return [(wish, versions.ASSUMED[wish], True)]
        if flavor:
            return [(flavor, version, False)]
        return [(flavor, versions.ASSUMED[flavor], True) for flavor in versions.FLAVORS]

    def plan_server(self, host):
        rows, accounts = self.connections(host)
        total = sum(row["connections"] for row in rows)
        demand = self.demand(host, total)
        managed = host.truth("mysql_manage")
        self.check_users(host)
        explicit = host.explicit("mysql_max_connections")
        if not managed:
            limit = self.foreign(host, total, explicit)
            resolved, assumed = None, None
        else:
            resolved, assumed = self.resolve(host, demand)
            limit = self.max_connections(host, resolved)
        plan = {
            "managed": managed,
            "max_connections": limit,
            "max_connections_origin": host.origin("mysql_max_connections")
            if explicit is not None
            else ("article" if managed else "assumed"),
            # a node restarts when its turn comes, not with the others
            "cluster": bool(self.cluster),
            "demand": demand,
            "connections": rows,
            "connections_total": total,
            "accounts": accounts,
            "address": host.address("mysql"),
            "port": host.number("mysql_port") or 3306,
            "assumed": assumed,
            "backup": {"max_age_hours": host.number("backup_proof_max_age")} if self.backed_up(host) else {},
        }
        if resolved:
            plan["resolved"] = resolved
            plan["disk"] = self.disk(host, resolved)
            self.warnings += [f"{host.name}: {text}" for text in resolved["warnings"]]
        return plan

    def max_connections(self, host, resolved):
        if resolved:
            for row in resolved["settings"]:
                if row["name"] == "max_connections":
                    return row["value"]
        return _whole(host.explicit("mysql_max_connections"), catalogue.article_value("max_connections"))

    def foreign(self, host, total, explicit):
        """A server that others run: only its max_connections and its wait_timeout count."""
        default = catalogue.server_default("max_connections", "mysql")
        limit = _whole(explicit, default)
        if explicit is None:
            self.warn(
                host.name, f"mysql_manage is false and mysql_max_connections not given: {default} assumed"
            )
        given = [name for name in (*catalogue.BY_VARIABLE, *NOT_OURS) if host.explicit(name) is not None]
        wrong = set()
        for variable in set(given) - set(NOT_OURS):
            parameter, value = catalogue.BY_VARIABLE[variable], host.explicit(variable)
            try:
                parameter.parse(value)
            except ValueError as error:
                wrong.add(variable)
                better = total if variable == "mysql_max_connections" else parameter.mend(value)
                self.refuse(
                    host.name, variable, value, str(error), f"set {variable} to {better}", {variable: better}
                )
        without = [name for name in given if name not in FOREIGN]
        if without:
            self.warn(host.name, f"mysql_manage is false, so these change nothing: {', '.join(without)}")
        if "mysql_max_connections" not in wrong and total > limit:
            self.too_many(host, limit, total)
        if "mysql_wait_timeout" not in wrong:
            self.check_idle(host)
        return default if "mysql_max_connections" in wrong else limit

    def check_idle(self, host):
        idle = _whole(host.explicit("mysql_wait_timeout"), catalogue.server_default("wait_timeout", "mysql"))
        better = max(1, idle - min(settings.WAIT_MARGIN, idle // 2))
        for application in self.servers[host.name]:
            if application.recycle < idle:
                continue
            if better >= idle:
                self.refuse(
                    host.name,
                    "mysql_wait_timeout",
                    idle,
                    "the server closes connections before they can be used again",
                    "have it raised, to 600 at least",
                    {"mysql_wait_timeout": 600},
                )
                return
            self.refuse(
                application.name,
                "django_app_pool_recycle",
                application.recycle,
                f"the server {host.name} closes idle connections after {idle} s (mysql_wait_timeout)",
                f"set django_app_pool_recycle to {better}",
                {"django_app_pool_recycle": better},
            )

    def check_users(self, host):
        names = [
            (str(user.get("name")), str(user.get("host", "%"))) for user in host.rows("mysql_other_users")
        ]
        roles = ("app", "migrate", "monitor", "operator")
        names_of = {role: str(host.get(f"mysql_{role}_user") or role) for role in roles}
        for count, role in enumerate(roles):
            if host.truth("mysql_manage") and names_of[role] in [names_of[other] for other in roles[:count]]:
                self.refuse(
                    host.name,
                    f"mysql_{role}_user",
                    names_of[role],
                    "another of our accounts has this name, with rights and a limit of its own",
                    f"set mysql_{role}_user to {role}_account",
                    {f"mysql_{role}_user": f"{role}_account"},
                )
        own = {*names_of.values(), "root"}
        for name, place in names if host.truth("mysql_firewall") else ():
            if not formats.filtered(place):
                self.refuse(
                    host.name,
                    "mysql_firewall",
                    True,
                    f"{name}@{place} of mysql_other_users may come from more than addresses, and a packet "
                    "filter knows nothing else",
                    "give it an address as host, or set mysql_firewall to false",
                    {"mysql_firewall": False},
                )
        for name, place in names:
            if name in own:
                kept = [
                    dict(row) for row in host.rows("mysql_other_users") if str(row.get("name")) not in own
                ]
                self.refuse(
                    host.name,
                    "mysql_other_users",
                    f"{name}@{place}",
                    "is one of our own accounts, and would be counted twice",
                    "remove it from mysql_other_users",
                    {"mysql_other_users": kept},
                )
                return
        if len(set(names)) != len(names):
            self.refuse(
                host.name,
                "mysql_other_users",
                ", ".join(sorted({f"{n}@{p}" for n, p in names if names.count((n, p)) > 1})),
                "is listed twice",
                "list each account once",
                {
                    "mysql_other_users": list(
                        {
                            (str(r.get("name")), str(r.get("host", "%"))): dict(r)
                            for r in host.rows("mysql_other_users")
                        }.values()
                    )
                },
            )

    def resolve(self, host, demand):
        """(the server's parameters or None, the assumption made)"""
        user = {
            variable: value
            for variable, value in host.own.items()
            if variable in catalogue.BY_VARIABLE
            or variable in ("mysql_extra_settings", "mysql_fit", "mysql_profile")
        }
        if not isinstance(user.get("mysql_profile", ""), str) or user.get("mysql_profile") not in (
            None,
            *settings.PROFILES,
        ):
            user.pop("mysql_profile")  # its type was refused already
        if "mysql_fit" in user:
            user["mysql_fit"] = host.truth("mysql_fit")
        if not hasattr(user.get("mysql_extra_settings", {}), "keys"):
            user.pop("mysql_extra_settings")
        paper = {"cpus": host.cpus}  # memory and files are in the demand
        outcomes = []
        for flavor, version, assumed in self.candidates(host):
            try:
                found = settings.resolve(user, flavor, version, paper, demand)
                outcomes.append((flavor, version, assumed, found, []))
            except PlanError as error:
                outcomes.append((flavor, version, assumed, None, error.problems))
        keys = [{(e["variable"], e["value"]) for e in problems} for *_, problems in outcomes]
        certain = set.intersection(*keys)
        if all(keys):  # whichever it is, it is refused: then by the first one's words
            certain = keys[0]
        for index, (flavor, version, _, _, problems) in enumerate(outcomes):
            for entry in problems:
                key = (entry["variable"], entry["value"])
                if key in certain:
                    if index == 0:
                        self.errors.append(
                            self.better_mend(host, user, flavor, version, paper, demand, entry)
                        )
                elif not all(keys):
                    self.warn(
                        host.name,
                        f"{entry['variable']}={entry['value']}: if this is {versions.NAMES[flavor]}, "
                        f"{entry['message']}",
                    )
        for flavor, version, assumed, found, _ in outcomes:
            if found:
                text = f"{versions.NAMES[flavor]} {version}" + (" (assumed: no facts yet)" if assumed else "")
                return found, text
        return None, None

    def better_mend(self, host, user, flavor, version, paper, demand, entry):
        """Raising max_connections is the mend only where the server could then still start."""
        if entry["variable"] != "mysql_max_connections" or "cannot hold" not in entry["message"]:
            return entry
        want = demand["connections"]
        try:
            settings.resolve({**user, "mysql_max_connections": want}, flavor, version, paper, demand)
        except PlanError:
            return self.smaller_pool(host, entry, int(entry["value"]), want)
        smaller = self.pool_for(host, int(entry["value"]))
        if smaller:
            entry["mend"] += f", or django_app_pool_size to {smaller} on its application hosts"
        return entry

    def too_many(self, host, limit, total):
        entry = problem(
            host.name,
            "mysql_max_connections",
            limit,
            f"cannot hold the {total} connections of this inventory",
            f"set mysql_max_connections to {total} (on the server, and here)",
            {"mysql_max_connections": total},
        )
        smaller = self.pool_for(host, limit)
        if total > MAX_CONNECTIONS:
            entry = self.smaller_pool(host, entry, limit, total)
        elif smaller:
            entry["mend"] += f", or django_app_pool_size to {smaller} on its application hosts"
        self.errors.append(entry)

    def pool_for(self, host, limit):
        """The largest pool, the same on all its application hosts, that the server holds; 0 if none does."""
        applications = self.servers[host.name]
        if not applications:
            return 0
        low, high = 0, max(application.pool_size for application in applications)
        while low < high:
            middle = (low + high + 1) // 2
            total = sum(row["connections"] for row in self.connections(host, middle)[0])
            low, high = (middle, high) if total <= limit else (low, middle - 1)
        return low

    def smaller_pool(self, host, entry, limit, total):
        smaller = self.pool_for(host, limit)
        names = [application.name for application in self.servers[host.name]]
        if smaller:
            what = f"set django_app_pool_size to {smaller} on the application hosts"
            return problem(
                host.name,
                entry["variable"],
                entry["value"],
                f"cannot hold the {total} connections of this inventory, and cannot be raised that far",
                what,
                {"django_app_pool_size": smaller},
                names,
            )
        largest = self.pool_for(host, MAX_CONNECTIONS)
        if largest and not host.explicit("budget_nofile_hard") and host.truth("mysql_manage"):
            least = max(1, largest // 2)  # half of what a server can have at all leaves room to grow
            need = sum(row["connections"] for row in self.connections(host, least)[0])
            return problem(
                host.name,
                entry["variable"],
                entry["value"],
                f"cannot hold the {total} connections of this inventory, and no server takes so many",
                f"set django_app_pool_size to {least} on the application hosts, "
                f"and {entry['variable']} to {need}",
                {"django_app_pool_size": least, entry["variable"]: need},
                [*names, host.name],
            )
        most = max(self.connections(host, 1)[0], key=lambda row: row["connections"])
        return problem(
            host.name,
            entry["variable"],
            entry["value"],
            f"cannot hold the {total} connections of this inventory, even with pools of one connection",
            f"lower what asks for most ({most['who']}: {most['what'] or most['sum']}, "
            f"{most['connections']}), or divide the applications over more servers (budget_server)",
        )

    def disk(self, host, resolved):
        """What the data directory needs besides the data."""
        values = {row["name"]: row["value"] for row in resolved["settings"]}
        flavor = resolved["flavor"]
        redo = values.get("innodb_redo_log_capacity")
        if redo is None:
            redo = values.get("innodb_log_file_size", 0) * values.get("innodb_log_files_in_group", 1)
        extra = host.explicit("mysql_extra_settings")
        extra = extra if hasattr(extra, "get") else {}
        named = {str(key).replace("-", "_") for key in extra}
        logging = (
            self.backed_up(host) or "log_bin" in named or (flavor == "mysql" and "skip_log_bin" not in named)
        )
        days = values.get("expire_logs_days")
        seconds = values.get("binlog_expire_logs_seconds", 0) if days is None else days * 86400
        rate = host.bytes("budget_write_rate") or 0
        size = values.get("max_binlog_size", 0)
        # A log is purged only once a later one is begun, so one more than the time asks for is there.
        binlogs = units.up_to(seconds * rate, size) + size if logging and size else 0
        temporary = units.GIB
        kept = cluster.disk(host) if self.cluster else 0
        need = redo + binlogs + temporary + kept
        room = host.bytes("budget_disk")
        if logging and size and not seconds:
            self.warn(
                host.name, "binary logs are kept for ever (mysql_expire_logs_days is 0): no disk holds them"
            )
        if room and need > room:
            mend = units.written(units.up_to(need, units.GIB))
            self.refuse(
                host.name,
                "budget_disk",
                host.get("budget_disk"),
                f"redo log, binary logs of {seconds // 86400} days at {units.human(rate)}/s and temporary "
                f"tables{' and what the cluster keeps' if kept else ''} need {units.human(need)}, "
                "without the data",
                f"give it {mend}, or keep binary logs for fewer days (mysql_expire_logs_days)",
                {"budget_disk": mend},
            )
        return {
            "redo_bytes": redo,
            "binlog_bytes": binlogs,
            "temporary_bytes": temporary,
            "cluster_bytes": kept,
            "need_bytes": need,
            "room_bytes": room,
        }

    def check_application_memory(self):
        for name, application in self.applications.items():
            if name in self.servers or not application.host.memory:
                continue
            need = application.memory_taken + (WEB_MEMORY if name in self.groups["web"] else 0)
            room = int(application.host.memory * _share(application.host))
            if need > room:
                least = int(need / _share(application.host)) + 1
                better = units.written(units.up_to(least, 64 * units.MIB))
                self.refuse(
                    name,
                    "django_app_workers",
                    application.workers,
                    f"its processes may take {units.human(need)} during a release, "
                    f"and {units.human(room)} of {units.human(application.host.memory)} may be used",
                    f"lower django_app_workers, or give the host {better} (budget_host_memory)",
                    {"budget_host_memory": better},
                )

    @staticmethod
    def database_host(application):
        return "127.0.0.1" if application.proxied else application.server.address("mysql")

    @staticmethod
    def database_port(application):
        if application.proxied:
            return application.host.number("mysql_cluster_proxy_port") or PROXY_PORT
        return (application.server.number("mysql_port") or 3306) if application.server else 3306

    @staticmethod
    def replica_port(application):
        return application.host.number("mysql_cluster_replica_port") or REPLICA_PORT

    def proxies(self):
        """What the proxy on an application host may open at one node: what does not fit waits in line."""
        return (
            {
                "proxies": {
                    name: {
                        "port": self.database_port(application),
                        "replica_port": self.replica_port(application),
                        "maxconn": application.limit()["total"] + application.migrate,
                    }
                    for name, application in self.applications.items()
                }
            }
            if self.cluster
            else {}
        )

    # --- what comes out ---------------------------------------------------------------------------------
    def result(self, plans):
        from planner import report

        applications = {}
        for name, application in self.applications.items():
            server = application.server
            away = server is not None and not application.same_host
            applications[name] = {
                "server": server.name if server else None,
                "workers": application.workers,
                "threads": application.threads,
                "pool_size": application.pool_size,
                "max_overflow": application.max_overflow,
                "recycle": application.recycle,
                "timeout": application.timeout,
                "connections": application.limit()["pooled"],
                "connections_now": sum(
                    row["connections"] // row["overlap"] for row in application.services()
                ),
                "max_user_connections": application.limit()["total"],
                "longest_request": application.longest_request,
                "database_host": self.database_host(application) if away else "",
                "database_port": self.database_port(application),
                "renew_file": cluster.WRITER_FILE if application.proxied else "",
                # 0: nobody reads from other nodes
                "replica_port": self.replica_port(application) if application.replica else 0,
                "replica_renew_file": cluster.REPLICAS_FILE if application.replica else "",
                "database_user": str(server.get("mysql_app_user") or "app") if server else "app",
                "database_migrate_user": str(server.get("mysql_migrate_user") or "migrate")
                if server
                else "migrate",
                # Only of a server that somebody else runs; ours has an authority of its own.
                "database_ca": str(server.explicit("mysql_ca_file") or "") if server else "",
                "origins": {
                    key: application.host.origin(f"django_app_{variable}")
                    for key, variable in (
                        ("workers", "workers"),
                        ("threads", "threads"),
                        ("pool_size", "pool_size"),
                        ("max_overflow", "pool_max_overflow"),
                        ("recycle", "pool_recycle"),
                        ("timeout", "pool_timeout"),
                    )
                },
            }
        for plan in plans.values():  # the hosts' own words for where an explicit parameter was set
            for row in (plan.get("resolved") or {}).get("settings", ()):
                if row["origin"] == "user":
                    row["set_in"] = self.hosts[plan["demand"]["name"]].origin(row["role_variable"])
        outcome = {
            "ok": not self.errors,
            "errors": self.errors,
            "warnings": list(dict.fromkeys(self.warnings)),
            "servers": plans,
            "backed_up": [name for name, plan in plans.items() if plan["backup"]],
            "applications": applications,
            "cluster": self.cluster.plan() | self.proxies(),
            "web": {
                name: {"read_timeout": self.hosts[name].number("web_read_timeout")}
                for name in self.groups["web"]
            },
        }
        outcome["report"] = report.text(outcome)
        outcome["summary"] = report.summary(outcome)
        outcome["refusal"] = report.refusal(outcome)
        return outcome


def _share(host):
    try:
        return min(0.95, max(0.1, float(host.get("budget_memory_share"))))
    except (TypeError, ValueError):
        return FALLBACK["budget_memory_share"]


def plan(hosts, groups, defaults=None, origin=None, checker=None, warnings=(), errors=()):
    """The whole fleet's plan; never raises for what an inventory says, but lists it under `errors`.

    hosts: {name: that host's variables}; groups: {"database" | "application" | "web": [names]};
    defaults laid over the roles' own; origin(host, variable): where the inventory sets it;
    warnings, errors: what was found while the inventory was read.
    """
    return Fleet(hosts, groups, defaults, origin, checker, warnings, errors).run()
