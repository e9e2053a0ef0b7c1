"""Several database hosts as one logical server: what is refused, and what a node needs more.

Galera (MariaDB) or Group Replication (MySQL) with one writer, behind a proxy on every application host. After
a failover any node is the writer, so every node must carry the whole fleet.
"""

import re
import uuid
import zlib

from planner import gtid, units, versions

TOPOLOGIES = ("standalone", "galera", "group_replication")
FLAVOR = {"galera": "mariadb", "group_replication": "mysql"}
TITLE = {"galera": "Galera", "group_replication": "Group Replication"}
# What roles/mysql_cluster sets itself; the server's own file would be read after it.
OWNED = {
    "galera": r"wsrep_\w+|binlog_format|innodb_autoinc_lock_mode|default_storage_engine",
    "group_replication": r"group_replication\w*|gtid_mode|enforce_gtid_consistency|log_replica_updates"
    r"|(super_)?read_only|report_(host|port)|plugin_load(_add)?|skip_log_bin|disable_log_bin",
}
NAMES = uuid.uuid5(uuid.NAMESPACE_URL, "roles/mysql_cluster")
# Where roles/mysql_cluster writes down, on each application host, which node writes: the pool follows it.
WRITER_FILE = "/run/mysql-cluster/writer"
# And which nodes may be read from.
REPLICAS_FILE = "/run/mysql-cluster/replicas"
# A joining node asks one of the others for a copy of its data.
JOIN_CONNECTIONS = 2
LEAST_CACHE = 128 * units.MIB  # Group Replication takes no less
CLONE_BUFFERS = 16 * 4 * units.MIB  # clone_max_concurrency x clone_buffer_size


def topology(host):
    word = str(host.get("mysql_topology") or "standalone")
    return word if word in TOPOLOGIES else "standalone"  # another word was refused already by its type


def server_id(host):
    """The same for a host whatever else is in the inventory."""
    given = host.explicit("mysql_extra_settings")
    given = given.get("server_id") if hasattr(given, "get") else None
    return given if given is not None else zlib.crc32(host.name.encode()) or 1


def cache(host):
    """What a node keeps of the last writes, for a node that was away for a short time."""
    return host.bytes("mysql_cluster_cache_size") or LEAST_CACHE


def memory(host):
    """Beyond a server that stands alone: the cache, and a buffer for each thread that clones it."""
    return cache(host) + (CLONE_BUFFERS if topology(host) == "group_replication" else 0)


def disk(host):
    """Galera's cache is a file. Group Replication's is none, but who joins notes what comes meanwhile."""
    if topology(host) == "galera":
        return cache(host)
    return (host.number("mysql_cluster_join_timeout") or 900) * (host.bytes("budget_write_rate") or 0)


class Cluster:
    """The database hosts of one inventory, where they are nodes of a cluster; else it has no nodes."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.hosts = [fleet.hosts[name] for name in fleet.groups["database"]]
        self.kind = next((topology(host) for host in self.hosts if topology(host) != "standalone"), None)
        self.nodes = [host for host in self.hosts if topology(host) != "standalone"]

    def __bool__(self):
        return bool(self.nodes)

    @property
    def leader(self):
        """The node that stands for all of them, and that writes as long as it can."""
        return self.nodes[0]

    @property
    def keeper(self):
        """The node that backups are taken from: the last one that has a repository, which writes last. It is
        always the same, as its own binary log leads from a copy to any second after it.
        """
        return next((node for node in reversed(self.nodes) if self.fleet.has_repository(node)), None)

    @property
    def replica_max_lag(self):
        """Seconds that a node may be behind and still be read from; 0: nobody reads from other nodes."""
        return max(0, self.leader.number("mysql_cluster_replica_max_lag")) if self else 0

    def holds(self, name):
        return any(node.name == name for node in self.nodes)

    def check(self):
        self.check_replica()
        if not self:
            return
        for host in self.hosts:
            if topology(host) != self.kind:
                self.refuse(
                    host,
                    "mysql_topology",
                    host.get("mysql_topology") or "standalone",
                    f"{self.leader.name} says {self.kind}; all database hosts are one cluster",
                    f"set mysql_topology to {self.kind} for the whole group database",
                    {"mysql_topology": self.kind},
                )
        self.check_size()
        self.check_flavors()
        self.check_server_ids()
        self.check_owned()
        self.check_cache()
        self.check_admin()
        for host in self.nodes:
            if not host.truth("mysql_manage"):
                self.refuse(
                    host,
                    "mysql_manage",
                    False,
                    f"{self.kind} is made on servers that this inventory manages",
                    "set mysql_manage to true, or mysql_topology to standalone",
                    {"mysql_manage": True},
                )

    def check_replica(self):
        """One answer for all hosts: nodes measure the lag, proxies follow, and pools are counted."""
        hosts = [self.fleet.hosts[name] for group in self.fleet.groups.values() for name in group]
        said = [host for host in hosts if host.explicit("mysql_cluster_replica_max_lag") is not None]
        for host in dict.fromkeys(said):
            given = host.number("mysql_cluster_replica_max_lag")
            if not self:
                if not given:
                    continue
                what = "a single server has no other node to read from, and replica() reads from default"
                self.fleet.warn(host.name, f"mysql_cluster_replica_max_lag={given}: {what}")
            elif given != self.replica_max_lag:
                self.fleet.refuse(
                    host.name,
                    "mysql_cluster_replica_max_lag",
                    given,
                    f"{self.leader.name} has {self.replica_max_lag}; one cluster has one bound",
                    f"set mysql_cluster_replica_max_lag to {self.replica_max_lag}, or to the same for all "
                    "hosts (in group_vars/all.yml)",
                    {"mysql_cluster_replica_max_lag": self.replica_max_lag},
                )

    def check_size(self):
        count, said = len(self.nodes), self.leader.explicit("mysql_cluster_size")
        if said is not None and self.leader.number("mysql_cluster_size") != count:
            self.refuse(
                self.leader,
                "mysql_cluster_size",
                said,
                f"the group database has {count} nodes",
                f"set mysql_cluster_size to {count}, or put the missing hosts into the group",
                {"mysql_cluster_size": count},
                every=True,
            )
        elif said is None and (count < 3 or count % 2 == 0):
            what = (
                "no node can fail: the other one has no majority"
                if count == 2
                else "one node is no cluster"
                if count == 1
                else f"{count} nodes bear no more losses than {count - 1} do, and can split into halves"
            )
            self.refuse(
                self.leader,
                "mysql_cluster_size",
                None,
                what,
                f"take {count + 1 + count % 2} nodes, or say that it is meant: "
                f"set mysql_cluster_size to {count}",
                {"mysql_cluster_size": count},
                every=True,
            )

    def check_flavors(self):
        wanted, first = FLAVOR[self.kind], None
        for host in self.nodes:
            flavor, version = versions.from_facts(host.facts)
            wish = str(host.get("mysql_flavor") or "auto").lower()
            has = wish if wish in versions.FLAVORS else flavor
            if has and has != wanted:
                by_word = wish in versions.FLAVORS
                self.refuse(
                    host,
                    "mysql_flavor" if by_word else "mysql_topology",
                    wish if by_word else self.kind,
                    f"{self.kind} is made of {versions.NAMES[wanted]}, and this is {versions.NAMES[has]}",
                    f"set mysql_flavor to {wanted}" if by_word else self.other_kind(has),
                    {"mysql_flavor": wanted} if by_word else {"mysql_topology": self.kind_of(has)},
                    every=not by_word,
                )
            elif flavor == wanted:
                first = first or (host, version)
                if version != first[1]:
                    self.refuse(
                        host,
                        "mysql_topology",
                        self.kind,
                        f"{versions.NAMES[wanted]} {version}, and {first[0].name} has {first[1]}: "
                        "a cluster's nodes run one version",
                        f"bring {host.name} and {first[0].name} to one release of the distribution",
                    )

    @staticmethod
    def kind_of(flavor):
        return next(kind for kind, made_of in FLAVOR.items() if made_of == flavor)

    def other_kind(self, flavor):
        return f"set mysql_topology to {self.kind_of(flavor)}, or take hosts whose distribution has the other"

    def check_owned(self):
        """The server's own file is read last: what the cluster needs must not be in it."""
        for host in self.nodes:
            given = host.explicit("mysql_extra_settings")
            given = dict(given) if hasattr(given, "items") else {}
            names = [
                name
                for name in given
                if re.fullmatch(OWNED[self.kind], str(name).replace("-", "_").removeprefix("loose_"))
            ]
            if names:
                self.refuse(
                    host,
                    "mysql_extra_settings",
                    ", ".join(f"{name}: {given[name]}" for name in names),
                    f"is what {TITLE[self.kind]} needs in its own way, and roles/mysql_cluster sets it",
                    f"remove {', '.join(names)} from mysql_extra_settings",
                    {"mysql_extra_settings": {n: v for n, v in given.items() if n not in names}},
                )

    def check_cache(self):
        for host in self.nodes if self.kind == "group_replication" else ():
            if cache(host) < LEAST_CACHE:
                self.refuse(
                    host,
                    "mysql_cluster_cache_size",
                    host.get("mysql_cluster_cache_size"),
                    f"Group Replication takes no less than {units.written(LEAST_CACHE)}",
                    f"set mysql_cluster_cache_size to {units.written(LEAST_CACHE)}",
                    {"mysql_cluster_cache_size": units.written(LEAST_CACHE)},
                )

    def check_admin(self):
        """A node's agent lives on the administrators' port, which MySQL does not count."""
        least = 3 if self.replica_max_lag else 2
        for host in self.nodes if self.kind == "galera" else ():
            if host.get("mysql_admin_connections") and host.number("mysql_admin_connections") < least:
                self.refuse(
                    host,
                    "mysql_admin_connections",
                    host.get("mysql_admin_connections"),
                    f"the node's agent keeps {least - 1} of them: none would be left for an administrator",
                    f"set mysql_admin_connections to {least}",
                    {"mysql_admin_connections": least},
                )

    def check_server_ids(self):
        seen = {}
        for host in self.nodes:
            number = str(server_id(host))
            if number in seen:
                self.refuse(
                    host,
                    "mysql_extra_settings",
                    f"server_id: {number}",
                    f"{seen[number]} has the same server_id",
                    "leave server_id out: each node gets one of its own",
                    {
                        "mysql_extra_settings": {
                            key: value
                            for key, value in (host.explicit("mysql_extra_settings") or {}).items()
                            if key != "server_id"
                        }
                    },
                )
            seen.setdefault(number, host.name)

    def refuse(self, host, variable, value, message, mend, set_to=None, every=False):
        on = [node.name for node in self.nodes] if every else None
        self.fleet.refuse(host.name, variable, value, message, mend, set_to, on)

    def plan(self):
        """What roles/mysql_cluster and the proxies need to know of all nodes."""
        if not self:
            return {}
        return {
            "topology": self.kind,
            "nodes": [
                {
                    "name": host.name,
                    "address": host.address("mysql"),
                    "port": host.number("mysql_port") or 3306,
                    "server_id": int(server_id(host)) if str(server_id(host)).isdigit() else 0,
                }
                for host in self.nodes
            ],
            "cache_bytes": cache(self.leader),
            "replica_max_lag": self.replica_max_lag,
            "backups_from": self.keeper.name if self.keeper else "",
            # The same for one cluster's name, wherever it is computed; transactions carry it.
            "uuid": str(uuid.uuid5(NAMES, str(self.leader.get("mysql_cluster_name") or "djorm"))),
        }

    def accounts(self):
        """By which the nodes of Group Replication reach each other, over TLS."""
        if self.kind != "group_replication":
            return []
        return [
            {
                "name": "cluster",
                "host": node.address("mysql"),
                "role": "cluster",
                "max_user_connections": 0,
                "require_tls": True,
            }
            for node in self.nodes
        ]


def strayed(states, members):
    """Of Group Replication: nodes that were in it, and hold what none of those that are has."""
    known = ",".join(states[name].get("gtid", "") for name in members)
    return [
        name
        for name, state in states.items()
        if name not in members and state["been"] and not gtid.covers(known, state.get("gtid", ""))
    ]


def decide(states, order):
    """What happens to a group of nodes, decided once for all of them from what each found about itself.

    {"bootstrap": the node where a cluster begins, or "", "order": who comes first, "refusal": why nothing may
    happen, or ""}. A cluster begins only where none is and none ever was; a single server with data begins it
    and keeps its data. In a cluster that serves, the first host of the group, which writes, comes last, and
    who is not in it comes before all that are.
    """

    def answer(bootstrap="", refusal=""):
        # Who is not in it comes first: nothing is done to a node while another one is away.
        others = [name for name in reversed(order) if name != bootstrap]
        others.sort(key=lambda name: name in members)
        return {
            "bootstrap": bootstrap,
            "order": [bootstrap, *others] if bootstrap else others,
            "refusal": refusal and f"{refusal}; no node was changed",
        }

    states = {name: states[name] for name in order if name in states}
    members = [name for name, state in states.items() if state["status"] == "Primary"]
    if missing := [name for name in order if name not in states]:
        return answer(refusal=f"{', '.join(missing)}: nothing is known; mend: run it for all nodes")
    kinds = {states[name]["uuid"] for name in members}
    if (count := len({(states[name]["uuid"], states[name].get("group")) for name in members})) > 1:
        return answer(
            refusal=f"{', '.join(members)} are in {count} different clusters; mend: decide "
            "whose data counts, and empty the others"
        )
    largest = max((states[name]["size"] for name in members), default=0)
    if largest > len(order):
        return answer(
            refusal=f"the cluster that runs has {largest} nodes, and the group database {len(order)}; mend: "
            "put the missing host into the group database, or into the group database_leaving and run "
            "playbooks/remove_node.yml"
        )
    foreign = [name for name, state in states.items() if name not in members and state["tables"]]
    foreign = [name for name in foreign if not states[name]["been"]]
    if members:
        others = [name for name, state in states.items() if state["been"] and {state["been"]} != kinds]
        others += foreign + strayed(states, members)
        if others:
            return answer(
                refusal=f"{', '.join(others)}: has data that is not this cluster's, and joining would "
                "remove it; mend: take that host out of the group database, or save and empty it"
            )
        return answer()
    been = [name for name, state in states.items() if state["been"]]
    if been:
        known = ", ".join(f"{name} seqno {states[name]['seqno'] or 'unknown'}" for name in been)
        return answer(
            refusal=f"there was a cluster on these nodes, and none of them serves ({known}); mend: start "
            "all of them at once; where that does not help, playbooks/recover_cluster.yml"
        )
    if len(foreign) > 1:
        return answer(
            refusal=f"{', '.join(foreign)}: each has data of its own, and a cluster keeps one's; mend: save "
            "and empty all but one"
        )
    return answer(bootstrap=(foreign or list(states))[0])


def _lacks_seqno(one, other):
    return int(one) < int(other)


def _lacks_gtid(one, other):
    return not gtid.covers(one, other)


# Whether a node at the first position lacks something of one at the second.
LACKS = {"galera": _lacks_seqno, "group_replication": _lacks_gtid}


def recover(states, order, kind, begin_at="", without=()):
    """Where a cluster of which no node serves begins again, from what each node found about itself.

    {"table": lines to show, "begin": the node, "join": the others, "refusal": why nothing may happen, or ""}.
    A state: {"serves", "uuid", "position", "said"}; "" for what is not known. Nothing is guessed: a node that
    cannot be asked may hold what no other has, and whoever knows that it is lost says so (`without`).
    """
    without = [name for name in order if name in without]
    table = [
        f"{name:<20} {states[name]['said'] if name in states else 'cannot be reached'}"
        + (", said to be lost" if name in without else "")
        for name in order
    ]

    def refuse(names, what, mend):
        text = f"{', '.join(names) + ': ' if names else ''}{what}; mend: {mend}; no node was changed"
        return {"table": table, "begin": "", "join": [], "refusal": text}

    asked = {name: states[name] for name in order if name in states and name not in without}
    held = {name: state for name, state in asked.items() if state["uuid"]}
    if serving := [name for name in order if name in states and states[name]["serves"]]:
        return refuse(
            serving,
            "serves in a majority, and a second cluster beside it would take writes that this one never sees",
            "run playbook.yml, which lets the others join",
        )
    if missing := [name for name in order if name not in states and name not in without]:
        return refuse(
            missing,
            "cannot be reached, and may serve, or hold writes that the others lack",
            f"bring it back; where it is certainly lost for good, -e recover_without={','.join(missing)}",
        )
    if unknown := [name for name, state in held.items() if not state["position"]]:
        return refuse(
            unknown,
            f"how far it came is not known ({held[unknown[0]]['said']})",
            f"see its log, or leave it out where its data is lost: -e recover_without={','.join(unknown)}",
        )
    if not held:
        return refuse([], "no node has data of a cluster", "run playbook.yml, which begins one")
    kinds = {state["uuid"] for state in held.values()}
    lacks = LACKS[kind]
    best = [
        name
        for name, state in held.items()
        if not any(lacks(state["position"], other["position"]) for other in held.values())
    ]
    if len(kinds) > 1 or not best:
        what = f"were in {len(kinds)} different clusters" if best else "each has writes that another lacks"
        mend = "decide whose data counts, and leave the other out: -e recover_without="
        return refuse(held, what, mend + list(held)[-1])
    mend = f"-e recover_from={best[0]}"
    if not begin_at:
        what = f"nothing was said, and nothing is guessed: the most advanced is {' or '.join(best)}"
        return refuse([], what, f"look at the table, then {mend}")
    if begin_at not in order:
        return refuse([], f"recover_from={begin_at}: is no host of the group database", mend)
    if begin_at not in best:
        said = states[begin_at]["said"] if begin_at in states else "cannot be reached"
        said += f"; {best[0]}: {held[best[0]]['said']}"
        what = f"is not the most advanced ({said}), and what it lacks would be lost"
        return refuse([], f"recover_from={begin_at}: {what}", mend)
    join = [name for name in order if name in asked and name != begin_at]
    return {"table": table, "begin": begin_at, "join": join, "refusal": ""}
