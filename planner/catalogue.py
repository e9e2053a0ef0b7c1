"""Every parameter of the article's mysqld.cnf, as data, for every server version we know.

A parameter is one role variable `mysql_<name>`. `article` is the article's value as written there (None: a
companion that the article did not set, but that its values depend on). Spans of versions are half open:
`since` is the first version with the parameter, `until` the first one without it.
Sources: MySQL's "Option and Variable Changes" (8.1 to 9.x), the reference manuals of MySQL 8.0, 8.4 and 9.x,
MariaDB's "Server System Variables" and "InnoDB System Variables", and the measurements named in
docs/capacity.md.
"""

import re
from dataclasses import dataclass, field
from functools import cache

from planner import units, versions

PREFIX = "mysql_"
OMIT = "(left to the server)"
GIB4 = 4 * units.GIB
MAX64 = 2**64 - 1
ISOLATION = ("READ-UNCOMMITTED", "READ-COMMITTED", "REPEATABLE-READ", "SERIALIZABLE")

# How the sections of the rendered file are headed, in their order.
GROUPS = {
    "paths": "Where things are",
    "connections": "Connections",
    "files": "Open files and table cache",
    "session": "Memory of each connection",
    "memory": "Memory of the whole server",
    "transactions": "Transactions and locks",
    "innodb": "InnoDB",
    "log": "Logs and binary log",
    "myisam": "MyISAM",
    "query_cache": "Query cache",
}


@dataclass(frozen=True)
class On:
    """What one flavor makes of a parameter."""

    since: tuple = (0,)
    until: tuple | None = None
    option: str | None = None  # in the file, where it differs from the parameter's name
    variable: str | None = ""  # to read back; "" = the option's name, None = cannot be read
    dynamic: object = True  # or the first version in which it is, or a function of the version
    default: object = None  # the server's own default, as written in a file
    minimum: int | None = None
    gone: str = ""  # what to say where it does not exist
    replacement: str | None = None  # the role variable that took its place


@dataclass(frozen=True)
class Departure:
    """Why, and where, the article's value is not used by default."""

    value: object
    reason: str
    flavor: str | None = None
    since: tuple = (0,)
    until: tuple | None = None
    harms: object = None  # callable(native value): does an explicit value harm in the same way?


@dataclass(frozen=True)
class Parameter:
    name: str
    group: str
    kind: str  # global memory | per-connection memory | global-with-sessions | limit | behaviour | path
    type: str  # size | int | bool | float | choice | path | text
    article: object
    about: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple = ()
    mysql: On = field(default_factory=On)
    mariadb: On = field(default_factory=On)
    departures: tuple = ()
    compare: str = "equal"
    section: str = "mysqld"
    manages: str = ""  # the module that decides the value where nobody else does ("files", "memory", ...)

    @property
    def role_variable(self):
        return PREFIX + self.name

    def on(self, flavor):
        return self.mysql if flavor == "mysql" else self.mariadb

    def exists(self, flavor, version):
        where = self.on(flavor)
        return where.since <= version and (where.until is None or version < where.until)

    def dynamic(self, flavor, version):
        known = self.on(flavor).dynamic
        if callable(known):
            return known(version)
        return known if isinstance(known, bool) else version >= known

    def option(self, flavor):
        return self.on(flavor).option or self.name

    def variable(self, flavor, version):
        if self.section != "mysqld":
            return None
        if self.name == "transaction_isolation" and flavor == "mariadb" and version < (11, 1, 1):
            return "tx_isolation"
        known = self.on(flavor).variable
        return self.option(flavor).replace("-", "_") if known == "" else known

    def departure(self, flavor, version):
        for entry in self.departures:
            fits = entry.flavor in (None, flavor) and entry.since <= version
            if fits and (entry.until is None or version < entry.until):
                return entry
        return None

    def parse(self, raw, flavor=None):
        """The native value, or ValueError with what is wrong."""
        value = PARSERS[self.type](self, raw)
        low, high = self.range(flavor)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if low is not None and value < low:
                raise ValueError(f"is below the smallest value, {self.written(low)}")
            if high is not None and value > high:
                raise ValueError(f"is above the largest value, {self.written(high)}")
        return value

    def range(self, flavor=None):
        own = self.on(flavor).minimum if flavor else None
        return (own if own is not None else self.minimum), self.maximum

    def written(self, value):
        """As it stands in the file."""
        if self.type == "size":
            return units.written(value)
        if self.type == "bool":
            return "ON" if value else "OFF"
        if isinstance(value, float) and value == int(value):
            return str(int(value))
        return str(value)

    def mend(self, raw, flavor=None):
        """A value that would pass, as near as possible to what was given."""
        low, high = self.range(flavor)
        if self.type == "size":
            guess = units.suggestion(raw)
            if guess is not None:
                count = units.size(guess)
                count = max(count, units.up_to(low or 0, units.KIB))
                count = count if high is None else min(count, high)
                return units.written(count // units.KIB * units.KIB)
        if self.type == "choice":
            word = re.sub(r"[\s_]+", "-", str(raw).strip().upper())
            for choice in self.choices:
                if str(choice).upper() == word:
                    return choice
        if self.type in ("int", "float"):
            try:
                number = float(str(raw))
            except ValueError:
                number = None
            if number is not None:
                if low is not None and number < low and self.name not in ("max_connections", "port"):
                    return low
                if high is not None and number > high:
                    return high
        if self.article is not None:
            return self.article
        return self.mysql.default if self.mysql.default is not None else self.mariadb.default


def _size(_, raw):
    return units.size(raw)


def _int(_, raw):
    if isinstance(raw, bool) or (isinstance(raw, float) and not raw.is_integer()):
        raise ValueError("is not a whole number")
    word = str(int(raw)) if isinstance(raw, float) else str(raw).strip()
    # the hosts' own tools read ASCII digits only
    if not re.match(r"^[+-]?[0-9]+$", word):
        raise ValueError("is not a whole number")
    return int(word)


def _float(_, raw):
    if isinstance(raw, bool):
        raise ValueError("is not a number")
    try:
        value = float(str(raw).strip())
    except ValueError:
        raise ValueError("is not a number") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("is not a number")
    return int(value) if value == int(value) else value


def boolean(raw):
    """What YAML, INI inventories and -e make of true and false."""
    word = str(raw).strip().lower()
    if isinstance(raw, bool) or word in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return word in ("true", "yes", "on", "1")
    raise ValueError("is neither true nor false")


def _bool(_, raw):
    return boolean(raw)


def _choice(parameter, raw):
    if raw in parameter.choices and not isinstance(raw, bool):
        return raw
    for choice in parameter.choices:
        if str(choice).upper() == str(raw).strip().upper() and not isinstance(raw, bool):
            return choice
    raise ValueError("is not one of " + ", ".join(str(choice) for choice in parameter.choices))


def _text(_, raw):
    if not isinstance(raw, str | int | float) or isinstance(raw, bool):
        raise ValueError("is not a text")
    word = str(raw).strip()
    if not word or "\n" in word or "#" in word:
        raise ValueError("is empty, or has a line break or a # in it")
    return word


def _path(_, raw):
    word = _text(_, raw)
    if not word.startswith("/") or re.search(r"[\s'\"]", word):
        raise ValueError("is not an absolute path without blanks")
    return word


PARSERS = {
    "size": _size,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "choice": _choice,
    "text": _text,
    "path": _path,
}


def static(default=None, **more):
    return On(dynamic=False, default=default, **more)


def live(default=None, **more):
    return On(dynamic=True, default=default, **more)


def pool_grows_live(version):
    """Since MDEV-29445 MariaDB cuts a larger pool down to innodb_buffer_pool_size_max, with a warning only
    (seen on 11.8.6): a restart is needed."""
    series, fixed = version[:2], {(10, 6): 22, (10, 11): 12, (11, 4): 6, (11, 8): 2}
    if series in fixed:
        return version[2] < fixed[series]
    return version < (11, 8)


NO_QUERY_CACHE = dict(
    until=(8, 0, 3),
    gone="the query cache was removed in MySQL 8.0",
)
REDO = "innodb_redo_log_capacity"

CATALOGUE = (
    # --- paths -------------------------------------------------------------------------------------------
    Parameter(
        "user",
        "paths",
        "path",
        "text",
        "mysql",
        "The system user the server runs as.",
        mysql=On(dynamic=False, variable=None),
        mariadb=On(dynamic=False, variable=None),
        compare="unreadable",
    ),
    Parameter(
        "pid_file",
        "paths",
        "path",
        "path",
        "/var/run/mysqld/mysqld.pid",
        "The file with the server's process id.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "socket",
        "paths",
        "path",
        "path",
        "/var/run/mysqld/mysqld.sock",
        "The Unix socket.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "port",
        "paths",
        "limit",
        "int",
        3306,
        "The TCP port.",
        1,
        65535,
        mysql=static(3306),
        mariadb=static(3306),
    ),
    Parameter(
        "bind_address",
        "paths",
        "behaviour",
        "text",
        None,
        "The address listened on. The article leaves it out, which means every address.",
        mysql=static("*"),
        mariadb=static("*"),
        manages="exposure",
    ),
    Parameter(
        "basedir",
        "paths",
        "path",
        "path",
        "/usr",
        "Where the server is installed.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "datadir",
        "paths",
        "path",
        "path",
        "/var/lib/mysql",
        "Where the data is.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "tmpdir",
        "paths",
        "path",
        "path",
        "/tmp",  # noqa: S108 (the article's value, not ours)
        "Where temporary files go.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
        departures=(
            Departure(
                "/var/tmp",  # noqa: S108
                "on Debian 13 that is a memory file system: temporary tables on disk would take memory",
            ),
        ),
    ),
    Parameter(
        "lc_messages_dir",
        "paths",
        "path",
        "path",
        "/usr/share/mysql",
        "Where the error messages are.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "skip_external_locking",
        "paths",
        "behaviour",
        "bool",
        True,
        "No locking of MyISAM files by the system.",
        mysql=static(True),
        mariadb=static(True),
    ),
    Parameter(
        "external_locking",
        "paths",
        "behaviour",
        "bool",
        False,
        "The same switch the other way round; the article has both.",
        mysql=On(dynamic=False, option="external-locking", variable=None),
        mariadb=On(dynamic=False, option="external-locking", variable=None),
        compare="unreadable",
    ),
    # --- connections -------------------------------------------------------------------------------------
    Parameter(
        "max_connections",
        "connections",
        "limit",
        "int",
        3000,
        "Clients at once. Never lowered: a plan that cannot hold it is refused.",
        1,
        100000,
        mysql=live(151),
        mariadb=live(151, minimum=10),
    ),
    Parameter(
        "back_log",
        "connections",
        "limit",
        "int",
        600,
        "Connections waiting to be accepted.",
        1,
        65535,
        mysql=static(),
        mariadb=static(),
    ),
    Parameter(
        "max_connect_errors",
        "connections",
        "limit",
        "int",
        6000,
        "Failed attempts before a host is blocked.",
        1,
        MAX64,
    ),
    Parameter(
        "thread_cache_size",
        "connections",
        "limit",
        "int",
        300,
        "Threads kept for the next connections.",
        0,
        16384,
    ),
    Parameter(
        "max_allowed_packet",
        "connections",
        "limit",
        "size",
        "32M",
        "The largest packet; a connection's buffer may grow to it.",
        1024,
        units.GIB,
    ),
    Parameter(
        "wait_timeout",
        "connections",
        "limit",
        "int",
        None,
        "Seconds until the server closes an idle connection; above the pools' recycle.",
        1,
        31536000,
        mysql=live(28800),
        mariadb=live(28800),
        manages="timeouts",
    ),
    # --- open files --------------------------------------------------------------------------------------
    Parameter(
        "open_files_limit",
        "files",
        "limit",
        "int",
        10240,
        "Open files; a minimum, as the unit's limit decides.",
        0,
        2**32 - 1,
        mysql=static(5000),
        mariadb=static(0),
        compare="at_least",
        manages="files",
    ),
    Parameter(
        "table_open_cache",
        "files",
        "limit",
        "int",
        None,
        "Open tables kept.",
        1,
        524288,
        mysql=live(4000),
        mariadb=live(2000, minimum=10),
        manages="files",
    ),
    Parameter(
        "table_open_cache_instances",
        "files",
        "limit",
        "int",
        None,
        "Parts of the table cache.",
        1,
        64,
        mysql=static(16),
        mariadb=static(8),
        manages="files",
    ),
    # --- memory of each connection -----------------------------------------------------------------------
    Parameter(
        "thread_stack",
        "session",
        "per-connection memory",
        "size",
        "192K",
        "The stack of a connection's thread.",
        128 * units.KIB,
        units.GIB,
        mysql=static("1M"),
        mariadb=static("292K"),
        departures=(
            Departure(
                "1M",
                "with 192K stored procedures fail on MySQL 8 and later (error 1436: thread stack overrun)",
                flavor="mysql",
                harms=lambda value: value < 512 * units.KIB,
            ),
        ),
    ),
    Parameter(
        "read_buffer_size",
        "session",
        "per-connection memory",
        "size",
        "1M",
        "For sequential scans.",
        8 * units.KIB,
        2**31 - 4096,
        mysql=live("128K"),
        mariadb=live("128K"),
    ),
    Parameter(
        "read_rnd_buffer_size",
        "session",
        "per-connection memory",
        "size",
        "16M",
        "For rows read in sorted order.",
        units.KIB,
        2**31 - 1,
        mysql=live("256K"),
        mariadb=live("256K"),
    ),
    Parameter(
        "sort_buffer_size",
        "session",
        "per-connection memory",
        "size",
        None,
        "For a sort.",
        32 * units.KIB,
        GIB4,
        mysql=live("256K"),
        mariadb=live("2M"),
        manages="memory",
    ),
    Parameter(
        "join_buffer_size",
        "session",
        "per-connection memory",
        "size",
        None,
        "For a join without an index.",
        128,
        GIB4,
        mysql=live("256K"),
        mariadb=live("256K"),
        manages="memory",
    ),
    Parameter(
        "tmp_table_size",
        "session",
        "per-connection memory",
        "size",
        "256M",
        "The largest temporary table in memory (MySQL: within temptable_max_ram).",
        units.KIB,
        MAX64,
        mysql=live("16M"),
        mariadb=live("16M"),
    ),
    Parameter(
        "max_heap_table_size",
        "session",
        "per-connection memory",
        "size",
        "256M",
        "The largest MEMORY table.",
        16 * units.KIB,
        MAX64,
        mysql=live("16M"),
        mariadb=live("16M"),
    ),
    Parameter(
        "binlog_cache_size",
        "session",
        "per-connection memory",
        "size",
        "4M",
        "A transaction's changes before they go to the binary log.",
        4096,
        MAX64,
        mysql=live("32K"),
        mariadb=live("32K"),
    ),
    Parameter(
        "bulk_insert_buffer_size",
        "session",
        "per-connection memory",
        "size",
        "64M",
        "For bulk inserts into MyISAM tables; nothing is taken without them.",
        0,
        MAX64,
        mysql=live("8M"),
        mariadb=live("8M"),
    ),
    # --- memory of the whole server ----------------------------------------------------------------------
    Parameter(
        "innodb_buffer_pool_size",
        "memory",
        "global memory",
        "size",
        "256M",
        "InnoDB's cache of data and indexes. "
        "The article remarks: 70 to 80 % of memory on a server of its own.",
        5 * units.MIB,
        MAX64,
        mysql=live("128M"),
        mariadb=On(dynamic=pool_grows_live, default="128M"),
        compare="at_least",
    ),
    Parameter(
        "innodb_log_buffer_size",
        "memory",
        "global memory",
        "size",
        "16M",
        "The redo log's buffer.",
        units.MIB,
        GIB4 - units.KIB,
        mysql=On(dynamic=(8, 0, 11), default="16M"),
        mariadb=static("16M", minimum=2 * units.MIB),
    ),
    Parameter(
        "temptable_max_ram",
        "memory",
        "global-with-sessions",
        "size",
        None,
        "All temporary tables in memory together (MySQL 8 and later).",
        2 * units.MIB,
        MAX64,
        mysql=live("1G"),
        mariadb=On(
            until=(0,),
            gone="MariaDB bounds a temporary table by tmp_table_size, each on its own",
            replacement="mysql_tmp_table_size",
        ),
        manages="memory",
    ),
    Parameter(
        "key_buffer_size",
        "memory",
        "global memory",
        "size",
        "2048M",
        "MyISAM's cache of indexes.",
        0,
        MAX64,
        mysql=live("8M"),
        mariadb=live("128M"),
        departures=(
            Departure(
                "8M",
                "2 GiB for MyISAM indexes that an InnoDB site never uses",
                harms=lambda value: value >= 512 * units.MIB,
            ),
        ),
    ),
    # --- transactions and locks --------------------------------------------------------------------------
    Parameter(
        "transaction_isolation",
        "transactions",
        "behaviour",
        "choice",
        "READ-COMMITTED",
        "The isolation level.",
        choices=ISOLATION,
        mysql=live("REPEATABLE-READ"),
        mariadb=live("REPEATABLE-READ"),
        compare="normalised",
    ),
    Parameter(
        "innodb_lock_wait_timeout",
        "transactions",
        "behaviour",
        "int",
        120,
        "Seconds to wait for a row lock.",
        1,
        1073741824,
        mysql=live(50),
        mariadb=live(50),
    ),
    Parameter(
        "innodb_flush_log_at_trx_commit",
        "transactions",
        "behaviour",
        "choice",
        2,
        "1: a commit is on disk when it returns. 2: it survives the server's crash, "
        "not the machine's (up to a second is lost).",
        choices=(0, 1, 2),
        mysql=live(1),
        mariadb=live(1),
    ),
    Parameter(
        "lower_case_table_names",
        "transactions",
        "behaviour",
        "choice",
        1,
        "Names of tables in lower case; fixed when the data directory is made.",
        choices=(0, 1, 2),
        mysql=static(0),
        mariadb=static(0),
        manages="datadir",
    ),
    # --- InnoDB ------------------------------------------------------------------------------------------
    Parameter(
        "innodb_thread_concurrency",
        "innodb",
        "limit",
        "int",
        8,
        "Threads inside InnoDB at once; 0 is no bound.",
        0,
        1000,
        mysql=live(0),
        mariadb=On(until=(0,), gone="MariaDB removed it in 10.6 and would ignore it"),
    ),
    Parameter(
        "innodb_max_dirty_pages_pct",
        "innodb",
        "behaviour",
        "float",
        90,
        "Dirty pages in the buffer pool, per cent.",
        0,
        99.999,
        mysql=live(90),
        mariadb=live(90),
        compare="normalised",
    ),
    Parameter(
        "innodb_file_per_table",
        "innodb",
        "behaviour",
        "bool",
        False,
        "A file of its own for every table.",
        mysql=live(True),
        mariadb=live(True),
        departures=(
            Departure(
                OMIT,
                "deprecated in MariaDB 11.0, where a file for every table is the server's own way",
                flavor="mariadb",
                since=(11, 0, 1),
                harms=lambda value: not value,
            ),
            Departure(
                True,
                "in the system tablespace nothing that is deleted ever shrinks the file",
                harms=lambda value: not value,
            ),
        ),
    ),
    Parameter(
        "innodb_log_file_size",
        "innodb",
        "limit",
        "size",
        "128M",
        "One redo log file. From MySQL 8.0.30 on it is translated to innodb_redo_log_capacity; "
        "on MariaDB, which has one file, the article's 128M x 3 becomes 384M.",
        4 * units.MIB,
        512 * units.GIB,
        mysql=static(
            "48M",
            until=(8, 0, 30),
            gone="replaced by innodb_redo_log_capacity in MySQL 8.0.30",
            replacement="mysql_innodb_redo_log_capacity",
        ),
        mariadb=On(dynamic=(10, 9), default="96M"),
        manages="redo",
    ),
    Parameter(
        "innodb_log_files_in_group",
        "innodb",
        "limit",
        "int",
        3,
        "Redo log files. Translated as innodb_log_file_size is.",
        1,
        100,
        mysql=static(
            2,
            until=(8, 0, 30),
            minimum=2,
            gone="replaced by innodb_redo_log_capacity in MySQL 8.0.30",
            replacement="mysql_innodb_redo_log_capacity",
        ),
        mariadb=On(
            until=(0,),
            gone="MariaDB 10.6 and later has one redo log file",
            replacement="mysql_innodb_log_file_size",
        ),
        manages="redo",
    ),
    Parameter(
        REDO,
        "innodb",
        "limit",
        "size",
        None,
        "The redo log's total (today's form, on every server; MariaDB takes it as its one file's size).",
        8 * units.MIB,
        512 * units.GIB,
        mysql=live(
            "100M", since=(8, 0, 30), gone="comes with MySQL 8.0.30", replacement="mysql_innodb_log_file_size"
        ),
        mariadb=On(
            until=(0,), gone="MariaDB calls it innodb_log_file_size", replacement="mysql_innodb_log_file_size"
        ),
        manages="redo",
    ),
    # --- logs --------------------------------------------------------------------------------------------
    Parameter(
        "log_error",
        "log",
        "path",
        "path",
        "/var/log/mysql/error.log",
        "The error log.",
        mysql=static(),
        mariadb=static(),
        compare="normalised",
    ),
    Parameter(
        "long_query_time",
        "log",
        "behaviour",
        "float",
        2,
        "Seconds from which a query counts as slow (the slow log itself stays off, as in the article).",
        0,
        31536000,
        mysql=live(10),
        mariadb=live(10),
        compare="normalised",
    ),
    Parameter(
        "max_binlog_size",
        "log",
        "limit",
        "size",
        "512M",
        "A binary log file's size.",
        4096,
        units.GIB,
        mysql=live("1G"),
        mariadb=live("1G"),
    ),
    Parameter(
        "max_binlog_cache_size",
        "log",
        "limit",
        "size",
        "8M",
        "The largest transaction that the binary log takes.",
        4096,
        MAX64,
        mysql=live(),
        mariadb=live(),
        departures=(
            Departure(
                "4G",
                "a transaction over 8M would fail while the binary log is on (by default since MySQL 8.0)",
                harms=lambda value: value < 64 * units.MIB,
            ),
        ),
    ),
    Parameter(
        "expire_logs_days",
        "log",
        "behaviour",
        "int",
        7,
        "Days that binary logs are kept.",
        0,
        99,
        mysql=live(
            0, until=(8, 2), gone="removed in MySQL 8.2", replacement="mysql_binlog_expire_logs_seconds"
        ),
        mariadb=live(0),
        compare="normalised",
        manages="expiry",
    ),
    Parameter(
        "binlog_expire_logs_seconds",
        "log",
        "behaviour",
        "int",
        None,
        "Seconds that binary logs are kept (today's form of expire_logs_days).",
        0,
        2**32 - 1,
        mysql=live(2592000),
        mariadb=On(since=(10, 6, 1), default=0),
        manages="expiry",
    ),
    # --- MyISAM ------------------------------------------------------------------------------------------
    Parameter(
        "myisam_recover_options",
        "myisam",
        "behaviour",
        "text",
        "BACKUP",
        "How a damaged MyISAM table is mended.",
        mysql=static(),
        mariadb=live(),
        compare="normalised",
    ),
    Parameter(
        "myisam_sort_buffer_size",
        "myisam",
        "per-connection memory",
        "size",
        "128M",
        "For building MyISAM indexes; nothing is taken without MyISAM tables.",
        4096,
        MAX64,
        mysql=live("8M"),
        mariadb=live("128M"),
    ),
    Parameter(
        "myisam_max_sort_file_size",
        "myisam",
        "limit",
        "size",
        "10G",
        "The largest file for building an index.",
        0,
        2**63 - 1,
    ),
    Parameter(
        "myisam_repair_threads",
        "myisam",
        "limit",
        "int",
        1,
        "Threads that rebuild indexes.",
        1,
        MAX64,
        mysql=live(1, until=(8, 1), gone="removed from MySQL after 8.0"),
        mariadb=live(1),
    ),
    # --- query cache -------------------------------------------------------------------------------------
    Parameter(
        "query_cache_size",
        "query_cache",
        "global memory",
        "size",
        "64M",
        "MariaDB's query cache.",
        0,
        MAX64,
        mysql=On(**NO_QUERY_CACHE),
        mariadb=live("1M"),
        departures=(
            Departure(
                "0",
                "a size switches MariaDB's query cache on: one global lock that every write takes",
                harms=lambda value: value > 0,
            ),
        ),
    ),
    Parameter(
        "query_cache_limit",
        "query_cache",
        "limit",
        "size",
        "4M",
        "The largest result the query cache keeps.",
        0,
        MAX64,
        mysql=On(**NO_QUERY_CACHE),
        mariadb=live("1M"),
        departures=(Departure(OMIT, "the query cache is off", harms=lambda value: False),),
    ),
    Parameter(
        "query_cache_min_res_unit",
        "query_cache",
        "limit",
        "size",
        "2K",
        "A block of the query cache.",
        0,
        MAX64,
        mysql=On(**NO_QUERY_CACHE),
        mariadb=live("4K"),
        departures=(Departure(OMIT, "the query cache is off", harms=lambda value: False),),
    ),
    # --- [mysqld_safe] -----------------------------------------------------------------------------------
    Parameter(
        "mysqld_safe_socket",
        "paths",
        "path",
        "path",
        "/var/run/mysqld/mysqld.sock",
        "For mysqld_safe, which systemd does not use.",
        mysql=static(option="socket"),
        mariadb=static(option="socket"),
        compare="unreadable",
        section="mysqld_safe",
    ),
    Parameter(
        "mysqld_safe_nice",
        "paths",
        "behaviour",
        "int",
        0,
        "For mysqld_safe, which systemd does not use.",
        -20,
        19,
        mysql=static(option="nice"),
        mariadb=static(option="nice"),
        compare="unreadable",
        section="mysqld_safe",
    ),
)

BY_NAME = {parameter.name: parameter for parameter in CATALOGUE}
BY_VARIABLE = {parameter.role_variable: parameter for parameter in CATALOGUE}

# Former and server-side names that people try; the message names the one we have.
ALIASES = {
    "mysql_tx_isolation": "mysql_transaction_isolation",
    "mysql_isolation_level": "mysql_transaction_isolation",
    "mysql_bind": "mysql_bind_address",
    "mysql_log_file_size": "mysql_innodb_log_file_size",
    "mysql_buffer_pool_size": "mysql_innodb_buffer_pool_size",
    "mysql_table_cache": "mysql_table_open_cache",
    "mysql_redo_log_capacity": "mysql_innodb_redo_log_capacity",
}


@cache
def article_value(name, flavor=None):
    parameter = BY_NAME[name]
    return None if parameter.article is None else parameter.parse(parameter.article, None)


def server_default(name, flavor):
    """The server's own default as a native value, or None."""
    known = BY_NAME[name].on(flavor).default
    return None if known is None else PARSERS[BY_NAME[name].type](BY_NAME[name], known)


def spec_type(parameter):
    """The type in meta/argument_specs.yml. Sizes are texts there; the planner checks their unit."""
    return {"size": "str", "choice": "str", "text": "str"}.get(parameter.type, parameter.type)


def spans(parameter, flavor):
    """'8.0 and later', 'until 8.2', '-' : for the documentation."""
    where = parameter.on(flavor)
    oldest = versions.OLDEST[flavor]
    if where.until is not None and where.until <= (*oldest, 0):
        return "-"
    text = []
    if where.since > (*oldest, 1):
        text.append("from " + ".".join(map(str, where.since)))
    if where.until is not None:
        text.append("before " + ".".join(map(str, where.until)))
    return ", ".join(text) or "yes"
