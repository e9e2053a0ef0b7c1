"""From what a user set to the parameters of one server, each with its origin and reason.

A value comes from: the user's explicit value (honoured or refused, never altered); else what fits the host;
else the catalogue's departure from the article; else the article. What the article never set, but its values
depend on, is derived.
"""

import re

from planner import catalogue, files, memory, units, versions
from planner.catalogue import BY_NAME, BY_VARIABLE, CATALOGUE, OMIT, PREFIX
from planner.errors import PlanError, problem

WAIT_MARGIN = 600  # seconds between the pools' recycle and the server's wait_timeout
PROFILES = ("article", "sized")
LOOPBACK = "127.0.0.1"
_OPTION = re.compile(r"^[a-z][a-z0-9_.-]*$")


def _twin(name):
    """The catalogue's parameter that an option sets too: with a prefix, or shortened as servers allow."""
    short = re.sub(r"^(loose|skip|disable|enable)_", "", name)
    for word in (name, re.sub(r"^loose_", "", name), short):
        if word in ("tx_isolation", "transaction_isolation"):
            return "transaction_isolation"
        if word in BY_NAME or PREFIX + word in BY_VARIABLE:
            return word
    longer = [other for other in BY_NAME if other.startswith(short)]
    shortened = len(longer) == 1 and len(short) >= 8 and short != "lc_messages"  # which is one of its own
    return longer[0] if shortened else None


class Resolver:
    """One server's parameters. Collects every problem before it gives up."""

    def __init__(self, user, flavor, version, host, demand, name=""):
        self.user = {key: value for key, value in dict(user or {}).items() if value is not None}
        self.flavor = flavor
        self.text_version = str(version)
        self.version = versions.parse(version)
        self.host = {key: value for key, value in dict(host or {}).items() if value is not None}
        self.demand = {key: value for key, value in dict(demand or {}).items() if value is not None}
        # What the plan knows of the host and what was seen on it: the lesser counts.
        for limit in ("memory_bytes", "nofile_hard"):
            known = [int(part[limit]) for part in (self.host, self.demand) if part.get(limit)]
            if known:
                self.host[limit] = min(known)
        self.name = name or self.demand.get("name") or ""
        self.problems, self.warnings = [], []
        self.values, self.origins, self.reasons = {}, {}, {}
        self.explicit = {}
        self.memory = {}
        self.files = {}

    # --- small words ------------------------------------------------------------------------------------
    def refuse(self, variable, value, message, mend, set_to=None):
        self.problems.append(problem(self.name, variable, value, message, mend, set_to))

    def warn(self, variable, message):
        self.warnings.append(f"{variable}: {message}")

    def put(self, name, value, origin, reason=""):
        self.values[name], self.origins[name], self.reasons[name] = value, origin, reason

    def drop(self, name):
        for part in (self.values, self.origins, self.reasons):
            part.pop(name, None)

    def raw(self, name):
        return self.user.get(PREFIX + name)

    def get(self, name):
        return self.values.get(name)

    @property
    def server(self):
        return f"{versions.NAMES[self.flavor]} {self.text_version}"

    # --- the steps --------------------------------------------------------------------------------------
    def run(self):
        self.read_user()
        self.article()
        self.locking()
        self.redo_log()
        self.binlog_expiry()
        self.table_names()
        self.exposure()
        self.timeouts()
        self.connections()
        self.sized()
        self.thread_cache()
        self.open_files()
        self.fit_memory()
        self.harm()
        extra = self.extra()
        if self.problems:
            raise PlanError(self.problems)
        return self.result(extra)

    def read_user(self):
        if self.version < versions.OLDEST[self.flavor]:
            oldest = ".".join(map(str, versions.OLDEST[self.flavor]))
            self.refuse(
                "mysql_flavor",
                self.flavor,
                f"{self.server} is older than what the catalogue knows",
                f"use {versions.NAMES[self.flavor]} {oldest} or later",
            )
        for variable, raw in self.user.items():
            parameter = BY_VARIABLE.get(variable)
            if not parameter:
                continue
            try:
                self.explicit[parameter.name] = parameter.parse(raw, self.flavor)
            except ValueError as error:
                better = parameter.mend(raw, self.flavor)
                if variable == "mysql_max_connections" and self.demand.get("connections"):
                    better = max(int(better), self.demand["connections"])
                self.refuse(variable, raw, str(error), f"set {variable} to {better}", {variable: better})
        if self.user.get("mysql_profile", "article") not in PROFILES:
            self.refuse(
                "mysql_profile",
                self.user["mysql_profile"],
                "is not one of " + ", ".join(PROFILES),
                "set mysql_profile to article",
                {"mysql_profile": "article"},
            )
        try:
            self.fitting = catalogue.boolean(self.user.get("mysql_fit", True))
        except ValueError as error:
            self.fitting = True
            self.refuse(
                "mysql_fit", self.user["mysql_fit"], str(error), "set mysql_fit to true", {"mysql_fit": True}
            )

    def article(self):
        """Departure or article for everything the user left alone."""
        for parameter in CATALOGUE:
            name = parameter.name
            here = parameter.exists(self.flavor, self.version)
            if name in self.explicit:
                if here:
                    self.put(name, self.explicit[name], "user", f"set as {parameter.role_variable}")
                elif parameter.manages not in ("redo", "expiry"):
                    self.gone(parameter)
                continue
            if not here:
                continue
            departure = parameter.departure(self.flavor, self.version)
            if departure and departure.value is OMIT:
                continue
            if departure:
                value = (
                    parameter.parse(departure.value) if isinstance(departure.value, str) else departure.value
                )
                self.put(name, value, "departure", f"the article's {self.was(parameter)}: {departure.reason}")
            elif parameter.article is not None:
                self.put(name, catalogue.article_value(name), "article")
            elif parameter.manages == "memory":
                # Written only when it has to be lowered; until then the server's own default counts.
                self.put(
                    name, catalogue.server_default(name, self.flavor), "server", "the server's own default"
                )

    @staticmethod
    def was(parameter):
        value = catalogue.article_value(parameter.name)
        return parameter.written(value)

    def gone(self, parameter):
        where = parameter.on(self.flavor)
        variable = parameter.role_variable
        mend = f"remove {variable}"
        if where.replacement:
            mend += f" and use {where.replacement}"
        reason = where.gone or "is not there"
        self.refuse(
            variable,
            self.user[variable],
            f"{self.server} has no {parameter.name} any more: {reason}",
            mend,
            {variable: None},
        )

    def locking(self):
        """One switch with two names."""
        skip, lock = self.explicit.get("skip_external_locking"), self.explicit.get("external_locking")
        if skip is not None and skip == lock:
            self.refuse(
                "mysql_external_locking",
                self.user["mysql_external_locking"],
                "contradicts mysql_skip_external_locking",
                "remove mysql_external_locking",
                {"mysql_external_locking": None},
            )
        elif skip is not None and lock is None:
            self.put("external_locking", not skip, "user", "set as mysql_skip_external_locking")
        elif lock is not None and skip is None:
            self.put("skip_external_locking", not lock, "user", "set as mysql_external_locking")

    def redo_log(self):
        """One total, in the form that this server knows."""
        size = self.explicit.get("innodb_log_file_size")
        count = self.explicit.get("innodb_log_files_in_group")
        total = self.explicit.get("innodb_redo_log_capacity")
        modern = "innodb_redo_log_capacity"
        if total is not None and (size is not None or count is not None):
            old = "mysql_innodb_log_file_size" if size is not None else "mysql_innodb_log_files_in_group"
            self.refuse(
                old,
                self.user[old],
                "and mysql_innodb_redo_log_capacity both set the redo log's size",
                f"remove {old}",
                {old: None},
            )
            return
        article_size = catalogue.article_value("innodb_log_file_size")
        article_count = catalogue.article_value("innodb_log_files_in_group")
        by_user = size is not None or count is not None
        has_modern = BY_NAME[modern].exists(self.flavor, self.version)
        if self.flavor == "mysql" and not has_modern:
            if total is not None:
                self.gone(BY_NAME[modern])
            return
        if total is None:
            if self.flavor == "mariadb" and size is not None and count is None:
                return  # the file's own size, as the user said; MariaDB has one file
            total = (size or article_size) * (count or article_count)
            parts = f"{units.written(size or article_size)} x {count or article_count}"
            if by_user:
                origin, reason = (
                    "user",
                    f"mysql_innodb_log_file_size x mysql_innodb_log_files_in_group = {parts}",
                )
            else:
                origin, reason = "article", f"the article's {parts}, in this server's form"
        else:
            origin, reason = "user", "set as mysql_innodb_redo_log_capacity"
        if self.flavor == "mysql":
            low, _ = BY_NAME[modern].range("mysql")
            if total < low:
                variable = "mysql_innodb_log_file_size"
                self.refuse(
                    variable,
                    self.user.get(variable),
                    f"makes a redo log of {units.written(total)}, below {low}",
                    "set mysql_innodb_redo_log_capacity to 8M instead",
                    {variable: None, "mysql_innodb_log_files_in_group": None, "mysql_" + modern: "8M"},
                )
                return
            self.drop("innodb_log_file_size")
            self.drop("innodb_log_files_in_group")
            self.put(modern, total, origin, reason)
        else:
            self.put("innodb_log_file_size", total, origin, reason)

    def binlog_expiry(self):
        days = self.explicit.get("expire_logs_days")
        seconds = self.explicit.get("binlog_expire_logs_seconds")
        if days is not None and seconds is not None:
            if days * 86400 != seconds:
                self.refuse(
                    "mysql_expire_logs_days",
                    self.user["mysql_expire_logs_days"],
                    f"disagrees with mysql_binlog_expire_logs_seconds={seconds}",
                    "remove mysql_expire_logs_days",
                    {"mysql_expire_logs_days": None},
                )
            days = None
        if self.flavor == "mariadb":
            if seconds is not None:
                self.drop("expire_logs_days")
            else:
                self.drop("binlog_expire_logs_seconds")
            return
        self.drop("expire_logs_days")
        if seconds is None:
            origin = "article" if days is None else "user"
            days = catalogue.article_value("expire_logs_days") if days is None else days
            self.put(
                "binlog_expire_logs_seconds",
                days * 86400,
                origin,
                f"the {'article' if origin == 'article' else 'user'}'s expire_logs_days {days}, "
                "in this server's form",
            )

    def table_names(self):
        name = "lower_case_table_names"
        there = self.host.get("live_lower_case_table_names")
        initialised = self.host.get("datadir_initialised", False) or there is not None
        article = catalogue.article_value(name)
        if name in self.explicit:
            wish = self.explicit[name]
            if there is not None and int(there) != wish:
                self.refuse(
                    PREFIX + name,
                    wish,
                    f"the data directory was made with {there}; "
                    + (
                        "the server would not start"
                        if self.flavor == "mysql"
                        else "existing tables would not be found"
                    ),
                    f"set {PREFIX + name} to {there}, or dump, make a new data directory and restore",
                    {PREFIX + name: int(there)},
                )
            return
        if there is not None and int(there) != article:
            self.put(
                name,
                int(there),
                "departure",
                f"the article's {article}: the data directory was made with {there}, and that cannot change",
            )
        elif there is None and initialised:
            self.drop(name)  # unknown and fixed: the server's own

    def exposure(self):
        name = "bind_address"
        asked = self.demand.get("listen", False)
        if name in self.explicit:
            only_here = self.explicit[name] in (LOOPBACK, "localhost", "::1")
            if asked and only_here:
                who = ", ".join(self.demand.get("listen_for", ())) or "another host"
                self.refuse(
                    PREFIX + name,
                    self.explicit[name],
                    f"listens on this host only, but {who} needs the server",
                    f"set {PREFIX + name} to *",
                    {PREFIX + name: "*"},
                )
            elif not asked and not only_here:
                self.warn(PREFIX + name, "the server listens beyond its host, and no other host needs it")
            return
        if asked:
            self.put(name, "*", "derived", "other hosts of the inventory need this server")
        else:
            self.put(
                name, LOOPBACK, "departure", "the article listens on every address; no other host needs that"
            )

    def timeouts(self):
        name = "wait_timeout"
        above = self.demand.get("wait_timeout_above")
        if name in self.explicit:
            if above is not None and self.explicit[name] <= above:
                better = above + WAIT_MARGIN
                self.refuse(
                    PREFIX + name,
                    self.explicit[name],
                    f"the server would close connections before a pool recycles them ({above} s)",
                    f"set {PREFIX + name} to {better}",
                    {PREFIX + name: better},
                )
            return
        if above is not None:
            self.put(
                name,
                above + WAIT_MARGIN,
                "derived",
                f"the pools recycle after {above} s; a host that died is forgotten {WAIT_MARGIN} s later",
            )

    def connections(self):
        want = self.demand.get("connections", 0)
        have = self.get("max_connections")
        if have is not None and want > have:
            self.refuse(
                "mysql_max_connections",
                have,
                f"cannot hold the {want} connections of this inventory",
                f"set mysql_max_connections to {want}",
                {"mysql_max_connections": want},
            )

    def sized(self):
        """Profile "sized": the host decides what the article fixed for a machine of its day."""
        if self.user.get("mysql_profile") != "sized":
            return
        for name in ("read_buffer_size", "read_rnd_buffer_size", "binlog_cache_size"):
            self.derive(name, catalogue.server_default(name, self.flavor), "the server's own default")
        want = self.demand.get("connections", 0)
        table, why = catalogue.server_default("tmp_table_size", self.flavor), "the server's own default"
        if self.flavor == "mariadb" and self.host.get("memory_bytes") and want:
            share = self.room() // 8 // want // units.MIB * units.MIB
            if share < table:
                table, why = (
                    max(units.MIB, share),
                    "an eighth of the memory that may be used, for all connections",
                )
        for name in ("tmp_table_size", "max_heap_table_size"):
            self.derive(name, table, why)
        if self.flavor == "mysql" and self.host.get("memory_bytes"):
            share = max(16 * units.MIB, min(units.GIB, self.room() // 16 // units.MIB * units.MIB))
            self.derive("temptable_max_ram", share, "a sixteenth of the memory that may be used, 1G at most")
        if want:
            self.derive("thread_cache_size", min(16384, max(16, want)), f"one for each of {want} connections")
            self.derive(
                "table_open_cache",
                min(16384, max(2000, 8 * want)),
                "eight tables for each connection, 2000 at least",
            )
        cpus = self.host.get("cpus")
        if cpus and self.flavor == "mysql":
            self.derive("innodb_thread_concurrency", 4 * cpus, f"four for each of {cpus} processors")
        if not self.host.get("memory_bytes"):
            self.warn(
                "mysql_profile",
                "sized needs the host's memory: set budget_host_memory; the pool stays the article's",
            )
            return
        if "innodb_buffer_pool_size" not in self.explicit:
            rest = self.room() - memory.total(
                self.flavor, {**self.values, "innodb_buffer_pool_size": 0}, want, self.others()
            )
            pool = rest * 100 // (100 + memory.POOL_OVERHEAD)
            step = (
                units.GIB
                if pool >= 8 * units.GIB
                else memory.CHUNK
                if pool >= memory.CHUNK
                else 8 * units.MIB
            )
            pool = max(64 * units.MIB, pool // step * step)
            self.derive(
                "innodb_buffer_pool_size",
                pool,
                f"what is left of {units.human(self.room())} after {want} connections and the other buffers",
            )
        redo = "innodb_redo_log_capacity" if self.get("innodb_redo_log_capacity") else "innodb_log_file_size"
        if self.origins.get(redo) != "user" and "innodb_log_files_in_group" not in self.values:
            pool = self.get("innodb_buffer_pool_size")
            self.put(
                redo,
                max(128 * units.MIB, min(8 * units.GIB, units.up_to(pool // 4, 64 * units.MIB))),
                "fit",
                "a quarter of the buffer pool, from 128M to 8G",
            )

    def thread_cache(self):
        """MariaDB cuts a thread cache larger than max_connections down by itself (seen on 10.11.18)."""
        have, most = self.get("thread_cache_size"), self.get("max_connections")
        if self.flavor != "mariadb" or have is None or most is None or have <= most:
            return
        if "thread_cache_size" not in self.explicit:
            self.put("thread_cache_size", most, "derived", f"no more threads than max_connections {most}")
            return
        self.refuse(
            "mysql_thread_cache_size",
            have,
            f"MariaDB keeps no more threads than max_connections {most} and would lower it by itself",
            f"set mysql_thread_cache_size to {most}",
            {"mysql_thread_cache_size": most},
        )

    def derive(self, name, value, reason):
        if name not in self.explicit:
            self.put(name, value, "fit", f"profile sized: {reason}")

    def open_files(self):
        cpus = self.host.get("cpus") or 128
        connections = self.get("max_connections") or 151
        minimum = self.get("open_files_limit") or 0
        fixed = {
            short
            for short, name in (
                ("cache", "table_open_cache"),
                ("instances", "table_open_cache_instances"),
                ("minimum", "open_files_limit"),
            )
            if name in self.explicit
        }
        for name in ("table_open_cache", "table_open_cache_instances"):
            if name not in self.values:
                self.put(
                    name, catalogue.server_default(name, self.flavor), "derived", "the server's own default"
                )
        cache, instances = self.get("table_open_cache"), self.get("table_open_cache_instances")
        extra = self.user.get("mysql_extra_settings")
        extra_connections = extra.get("extra_max_connections", 1) if isinstance(extra, dict) else 1
        extra_connections = extra_connections if isinstance(extra_connections, int) else 1
        extra_connections = max(extra_connections, self.demand.get("extra_max_connections", 1))
        hard = self.host.get("nofile_hard")
        more = {"extra_connections": extra_connections, "cpus": cpus}
        found = files.derive(self.flavor, connections, cache, instances, minimum, hard, fixed, **more)
        if found["short"]:
            self.refuse_files(found, connections, hard, fixed, more)
        why = f"the hard limit of open files is {hard}"
        for name, key, before in (
            ("table_open_cache", "cache", cache),
            ("table_open_cache_instances", "instances", instances),
        ):
            if found[key] != before:
                self.put(
                    name, found[key], "fit", f"{before} lowered: {why}, and max_connections is {connections}"
                )
        nofile = found["nofile"]
        if "open_files_limit" in self.explicit:
            if nofile > minimum:
                self.warn(
                    "mysql_open_files_limit", f"a minimum: max_connections and the table cache need {nofile}"
                )
        elif nofile < minimum:
            self.put("open_files_limit", nofile, "fit", f"the article's {minimum} lowered: {why}")
        elif nofile > minimum:
            self.put(
                "open_files_limit",
                nofile,
                "departure",
                f"the article's {minimum} is a minimum: this is what the server asks for with "
                f"max_connections {connections} and table_open_cache {found['cache']}",
            )
        self.files = {"nofile": nofile, "hard": hard, "wanted": found["wanted"]}

    def refuse_files(self, found, connections, hard, fixed, more):
        """Which of the user's values stands in the way, and what it could be."""
        for name, key in (
            ("open_files_limit", "minimum"),
            ("table_open_cache_instances", "instances"),
            ("table_open_cache", "cache"),
        ):
            if key not in fixed:
                continue
            rest = fixed - {key}
            now = {
                "cache": self.get("table_open_cache"),
                "instances": self.get("table_open_cache_instances"),
                "minimum": self.get("open_files_limit") or 0,
            }
            trial = files.derive(
                self.flavor, connections, now["cache"], now["instances"], now["minimum"], hard, rest, **more
            )
            if not trial["short"]:
                better = {"cache": trial["cache"], "instances": trial["instances"], "minimum": hard}[key]
                short = f"needs {found['short']} more open files than the host's hard limit of {hard}"
                variable = PREFIX + name
                self.refuse(
                    variable,
                    self.explicit[name],
                    short,
                    f"set {variable} to {better}, or raise the limit",
                    {variable: better},
                )
                return
        low, high = 1, connections
        while low < high:  # the most connections that the limit holds
            middle = (low + high + 1) // 2
            trial = files.derive(
                self.flavor,
                middle,
                self.get("table_open_cache"),
                self.get("table_open_cache_instances"),
                0,
                hard,
                fixed - {"minimum"},
                **more,
            )
            low, high = (middle, high) if not trial["short"] else (low, middle - 1)
        self.refuse(
            "mysql_max_connections",
            connections,
            f"needs {found['short']} more open files than the host's hard limit of {hard}, "
            "even with the smallest table cache",
            f"set mysql_max_connections to {low}, or raise the limit (fs.nr_open, the container's ulimit)",
            {"mysql_max_connections": low},
        )

    # --- memory -----------------------------------------------------------------------------------------
    def room(self):
        share = float(self.demand.get("memory_share") or memory.SHARE)
        return int(self.host["memory_bytes"] * share)

    def others(self):
        return int(self.demand.get("memory_others", 0))

    def fit_memory(self):
        want = self.demand.get("connections", 0)
        values = {name: value for name, value in self.values.items() if isinstance(value, int)}
        needs = ("innodb_buffer_pool_size", "key_buffer_size", "tmp_table_size", *memory.PER_CONNECTION)
        if any(name not in values for name in needs):
            return  # refused already
        extra = self.user.get("mysql_extra_settings")
        aria = extra.get("aria_pagecache_buffer_size") if isinstance(extra, dict) else None
        if aria is not None:
            try:
                values["aria_pagecache_buffer_size"] = units.size(aria)
            except ValueError:
                values["aria_pagecache_buffer_size"] = (
                    int(aria) if str(aria).isdigit() else memory.ARIA_PAGE_CACHE
                )
        total_memory = self.host.get("memory_bytes")
        share = float(self.demand.get("memory_share") or memory.SHARE)
        if total_memory:
            room = self.room()
            need = memory.total(self.flavor, values, want, self.others())
            fixed = frozenset(self.explicit)
            if need > room and not self.fitting:
                self.refuse(
                    "mysql_fit",
                    False,
                    f"{want} connections may take {units.human(need)} with the article's values; "
                    f"{units.human(room)} of the host's {units.human(total_memory)} may be used",
                    "set mysql_fit to true",
                    {"mysql_fit": True},
                )
            elif need > room:
                lowered = memory.fit(self.flavor, values, want, room, fixed, self.others())
                for name, value in lowered.items():
                    before = BY_NAME[name].written(values[name])
                    self.put(
                        name,
                        value,
                        "fit",
                        f"{before} lowered: {want} connections would take {units.human(need)} of the "
                        f"{units.human(room)} that may be used",
                    )
                values.update(lowered)
                after = memory.total(self.flavor, values, want, self.others())
                if after > room:
                    self.refuse_memory(values, want, room, after)
        else:
            self.warn(
                "budget_host_memory", "the host's memory is not known: the article's values were not fitted"
            )
        self.memory = memory.table(self.flavor, values, want, self.others(), total_memory, share)
        allowed = self.get("max_connections") or 0
        if total_memory and allowed > want:
            full = memory.total(self.flavor, values, allowed, self.others())
            self.memory["at_max_connections_bytes"] = full

    def refuse_memory(self, values, want, room, after):
        """Nothing more can be lowered: an explicit value is in the way, or the host is too small."""
        share = float(self.demand.get("memory_share") or memory.SHARE)
        floors = dict(memory.ORDER)
        floors.update(
            {
                "max_heap_table_size": floors["tmp_table_size"],
                "key_buffer_size": 8 * units.MIB,
                "query_cache_size": 0,
                "thread_stack": 256 * units.KIB,
            }
        )
        counted = [name for name in self.explicit if name in floors and values.get(name, 0) > floors[name]]
        if self.flavor == "mysql":
            counted = [name for name in counted if name not in ("tmp_table_size", "max_heap_table_size")]
        weight = {
            name: (values[name] - floors[name])
            * (want if name in memory.PER_CONNECTION or name == "tmp_table_size" else 1)
            for name in counted
        }
        for name in sorted(counted, key=lambda name: -weight[name]):
            trial = {**values, name: floors[name]}
            if memory.total(self.flavor, trial, want, self.others()) > room:
                continue
            better = self.largest(name, values, want, room, floors[name])
            variable = PREFIX + name
            text = BY_NAME[name].written(better)
            self.refuse(
                variable,
                BY_NAME[name].written(self.explicit[name]),
                f"with {want} connections the server may take {units.human(after)}, "
                f"and {units.human(room)} may be used",
                f"set {variable} to {text}",
                {variable: text},
            )
            return
        if counted:
            names = [PREFIX + name for name in counted]
            least = memory.total(
                self.flavor, {**values, **{name: floors[name] for name in counted}}, want, self.others()
            )
            if least <= room:
                self.refuse(
                    names[0],
                    self.user[names[0]],
                    f"with {', '.join(names[1:])}, {want} connections may take {units.human(after)}, "
                    f"and {units.human(room)} may be used",
                    "remove " + ", ".join(names) + ", so that they are fitted",
                    dict.fromkeys(names),
                )
                return
            after = least
        need = units.up_to(int(after / share) + 1, 64 * units.MIB)
        self.refuse(
            "budget_host_memory",
            units.human(self.host["memory_bytes"]),
            f"{want} connections need {units.human(after)} with every buffer at its least, "
            f"and {units.human(room)} may be used",
            f"give the host {units.written(need)} (budget_host_memory), "
            "or lower the pools (django_app_pool_size, django_app_workers)",
            {"budget_host_memory": units.written(need)},
        )

    def largest(self, name, values, want, room, low):
        """The largest value that fits, in steps of 64K (a megabyte for large ones)."""
        step = units.MIB if values[name] >= 64 * units.MIB else 64 * units.KIB
        a, b = 0, max(0, (values[name] - low) // step)
        while a < b:
            middle = (a + b + 1) // 2
            fits = (
                memory.total(self.flavor, {**values, name: low + middle * step}, want, self.others()) <= room
            )
            a, b = (middle, b) if fits else (a, middle - 1)
        return low + a * step

    # --- the rest ---------------------------------------------------------------------------------------
    def harm(self):
        """Explicit values are honoured; what they do is said."""
        for name in self.explicit:
            parameter = BY_NAME[name]
            if not parameter.exists(self.flavor, self.version):
                continue
            departure = parameter.departure(self.flavor, self.version)
            if departure and departure.harms and departure.harms(self.explicit[name]):
                self.warn(
                    parameter.role_variable, f"{self.user[parameter.role_variable]}: {departure.reason}"
                )
        if (
            self.explicit.get("skip_external_locking") is False
            and self.explicit.get("external_locking") is False
        ):
            self.warn("mysql_skip_external_locking", "contradicts mysql_external_locking; the later one wins")

    def extra(self):
        given = self.user.get("mysql_extra_settings")
        if given is None:
            given = {}
        if not isinstance(given, dict):
            self.refuse(
                "mysql_extra_settings",
                given,
                "is not a dictionary of server variables",
                "write it as name: value pairs",
                {"mysql_extra_settings": {}},
            )
            return []
        rows = []
        for key, value in given.items():
            name = str(key)
            plain = name.replace("-", "_")
            twin = _twin(plain)
            if twin:
                own = PREFIX + twin
                self.refuse(
                    "mysql_extra_settings",
                    name,
                    f"{name} is a parameter of the catalogue, and would be set twice",
                    f"use {own} instead",
                    {"mysql_extra_settings": {k: v for k, v in given.items() if k != key}},
                )
                continue
            if not _OPTION.match(name):
                self.refuse(
                    "mysql_extra_settings",
                    name,
                    "is not the name of a server variable",
                    "write it in lower case",
                    {"mysql_extra_settings": {k: v for k, v in given.items() if k != key}},
                )
                continue
            if isinstance(value, dict | list) or re.search(r"[\n\r#]", str(value)):
                self.refuse(
                    "mysql_extra_settings",
                    f"{name}={value}",
                    "is not one value on one line without a #",
                    "give one value",
                    {"mysql_extra_settings": {k: v for k, v in given.items() if k != key}},
                )
                continue
            if plain == "skip_networking" and value not in (False, 0) and self.demand.get("listen"):
                self.refuse(
                    "mysql_extra_settings",
                    name,
                    f"{', '.join(self.demand['listen_for']) or 'another host'} needs the server over TCP",
                    f"remove {name} from mysql_extra_settings",
                    {"mysql_extra_settings": {k: v for k, v in given.items() if k != key}},
                )
                continue
            text = (
                "" if value is None else ("ON" if value else "OFF") if isinstance(value, bool) else str(value)
            )
            loose = plain.startswith("loose_")
            rows.append(
                {
                    "name": plain,
                    "variable": None if loose else plain,
                    "value": value,
                    "file_value": text,
                    "origin": "user",
                    "reason": "set in mysql_extra_settings",
                    "dynamic": False,
                    "compare": "unreadable" if loose or value is None else "normalised",
                    "role_variable": "mysql_extra_settings",
                    "section": "mysqld",
                    "group": "extra",
                    "kind": "extra",
                    "article": None,
                }
            )
        return rows + self.binary_log({row["name"]: row["value"] for row in rows})

    def binary_log(self, given):
        """Backups restore to any second from the binary log; MySQL keeps one unless told not to."""
        if not self.demand.get("binary_log"):
            return []
        for name, value in given.items():
            off = name == "log_bin" and str(value).lower() in ("0", "off", "false", "no")
            if off or name in ("skip_log_bin", "disable_log_bin"):
                self.refuse(
                    "mysql_extra_settings",
                    name,
                    "backups need the binary log (backup_repository is set)",
                    f"remove {name} from mysql_extra_settings",
                )
        if self.flavor == "mysql" or "log_bin" in given:
            return []
        return [
            {
                "name": "log_bin",
                "variable": None,
                "value": "binlog",
                "file_value": "binlog",
                "origin": "derived",
                "reason": "backups restore to any second from the binary log",
                "dynamic": False,
                "compare": "unreadable",
                "role_variable": "mysql_extra_settings",
                "section": "mysqld",
                "group": "extra",
                "kind": "extra",
                "article": None,
            }
        ]

    def result(self, extra):
        rows = []
        for parameter in CATALOGUE:
            name = parameter.name
            if name not in self.values or self.origins[name] == "server":
                continue
            value = self.values[name]
            compare = parameter.compare
            if name == "binlog_expire_logs_seconds":
                compare = "equal"
            option, text = parameter.option(self.flavor), parameter.written(value)
            if name == "skip_external_locking":  # an option without a value: skip-x = OFF would mean skip-x
                option, text = "skip-external-locking" if value else "external-locking", ""
            rows.append(
                {
                    "name": option,
                    "variable": parameter.variable(self.flavor, self.version),
                    "value": value,
                    "file_value": text,
                    "origin": self.origins[name],
                    "reason": self.reasons[name],
                    "dynamic": parameter.dynamic(self.flavor, self.version),
                    "compare": compare,
                    "role_variable": parameter.role_variable,
                    "section": parameter.section,
                    "group": parameter.group,
                    "kind": parameter.kind,
                    "article": None if parameter.article is None else self.was(parameter),
                }
            )
        return {
            "flavor": self.flavor,
            "version": self.text_version,
            "settings": rows + extra,
            "limits": dict(self.files),
            "departures": self.departures(),
            "warnings": self.warnings,
            "memory": self.memory,
            "groups": {**catalogue.GROUPS, "extra": "Anything else, from mysql_extra_settings"},
        }

    def departures(self):
        """Everything that is not as the article has it, and why; also what is not written at all."""
        rows = []
        for parameter in CATALOGUE:
            name, value = parameter.name, self.values.get(parameter.name)
            origin = self.origins.get(name)
            if name in self.values and origin != "server":
                if origin in ("departure", "fit"):
                    article = None if parameter.article is None else self.was(parameter)
                    rows.append(
                        {
                            "name": parameter.option(self.flavor),
                            "article": article,
                            "value": parameter.written(value),
                            "origin": origin,
                            "reason": self.reasons[name],
                        }
                    )
                continue
            if parameter.article is None:
                continue
            where, departure = parameter.on(self.flavor), parameter.departure(self.flavor, self.version)
            if not parameter.exists(self.flavor, self.version):
                reason = where.gone
            elif parameter.manages == "datadir":
                reason = "fixed when the data directory was made: the server's own"
            elif parameter.manages == "expiry" and self.flavor == "mysql":
                reason = "written as binlog_expire_logs_seconds"
            elif departure:
                reason = departure.reason
            else:
                reason = "written in this server's own form"
            rows.append(
                {
                    "name": parameter.option(self.flavor),
                    "article": self.was(parameter),
                    "value": None,
                    "origin": "departure",
                    "reason": reason,
                }
            )
        return rows


def resolve(user, flavor, version, host=None, demand=None):
    """One server's parameters; raises PlanError with every problem. See the module's head for the order."""
    return Resolver(user, flavor, version, host, demand).run()
