"""The names and types of our variables: roles/*/meta/argument_specs.yml, and the catalogue.

Ansible checks a role's arguments host by host, when the role starts; this checks the whole inventory before
any host is reached, and knows a misspelt name from an unknown one.
"""

import difflib
import re
from functools import lru_cache
from pathlib import Path

import yaml

from planner import catalogue, certificates, formats, units
from planner.errors import HIDDEN, problem, shown

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = ("mysql_", "django_app_", "web_", "budget_", "backup_", "updates_", "sandbox_")
# Made up of the accounts' names, so no spec can list them; and what our own roles find out in a run.
PATTERNS = (
    re.compile(r"^mysql_[a-z0-9_]+_password$"),
    re.compile(r"^(budget|mysql|django_app|web|backup)_(plan|declared|resolved|shown)$"),
)
SECRETS = (
    *(f"mysql_{account}_password" for account in ("app", "migrate", "monitor", "root", "backup")),
    "django_app_secret_key",
    "backup_password",
)

CONNECTIONS = {"type": "int", "minimum": 0}
# What the planner itself reads, so that it holds even where a role's own spec does not list it.
OWN = {
    "mysql_other_users": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "connections": {"type": "int", "required": True, "minimum": 1},
            "host": {"type": "str"},
            "description": {"type": "str"},
        },
    },
    "mysql_fit": {"type": "bool"},
    "mysql_profile": {"type": "str", "choices": ["article", "sized"]},
    "mysql_extra_settings": {"type": "dict"},
    "mysql_address": {"type": "str"},
    "mysql_flavor": {"type": "str", "choices": ["auto", "mysql", "mariadb"]},
    "mysql_manage": {"type": "bool"},
    "mysql_cluster_size": {"type": "int", "minimum": 1},
    "django_app_address": {"type": "str"},
    "django_app_services": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "kind": {"type": "str"},
            "command": {"type": "str"},
            "processes": {"type": "int", "minimum": 1},
            "threads": {"type": "int", "minimum": 1},
            "pool_size": {"type": "int"},
            "max_overflow": {"type": "int"},
            "aliases": {"type": "int", "minimum": 1},
            "overlap": {"type": "int", "minimum": 1},
            "memory": {"type": "size"},
        },
    },
    "sandbox_os": {"type": "str", "choices": ["mysql", "debian13", "debian12"]},
    "sandbox_image": {"type": "str"},
    "django_app_database_aliases": {"type": "int", "minimum": 1},
    "django_app_statement_timeout": {"type": "int", "minimum": 0},
    "django_app_stop_timeout": {"type": "int", "minimum": 1},
}
OWN.update(
    {
        name: {"type": "int"}
        for name in (
            "django_app_workers",
            "django_app_threads",
            "django_app_pool_size",
            "django_app_pool_max_overflow",
            "django_app_pool_recycle",
            "django_app_pool_timeout",
            "django_app_lock_wait_timeout",
            "django_app_graceful_timeout",
            "django_app_release_overlap",
            "django_app_management_connections",
            "web_read_timeout",
        )
    }
)
OWN["django_app_pool_pessimistic"] = {"type": "bool"}
# Smallest values that make sense; the specs have no word for it.
MINIMA = {
    "django_app_workers": 1,
    "django_app_threads": 1,
    "django_app_pool_timeout": 1,
    "django_app_lock_wait_timeout": 1,
    "django_app_graceful_timeout": 1,
    "django_app_release_overlap": 1,
    "django_app_management_connections": 0,
    "web_read_timeout": 1,
    "budget_reserve_connections": 1,
    "budget_monitor_connections": 1,
    "budget_backup_connections": 0,
    "budget_replication_connections": 0,
    "budget_migrate_connections": 1,
    "budget_slack_percent": 0,
    "budget_nofile_hard": 1024,
    "budget_cpus": 1,
    "backup_keep_daily": 1,
    "backup_keep_weekly": 0,
    "backup_proof_max_age": 1,
    "mysql_admin_connections": 1,
    "mysql_restart_wait": 0,
    "mysql_start_timeout": 1,
    "mysql_cluster_drain_timeout": 0,
    "mysql_cluster_join_timeout": 1,
    "mysql_cluster_replica_max_lag": 0,
    "django_app_backlog": 1,
    "django_app_health_timeout": 1,
    "django_app_keep_releases": 2,  # the one in service, and the one to go back to
    "django_app_limit_nofile": 256,
    "django_app_migrate_lock_wait_timeout": 1,
    "django_app_settle_seconds": 0,
    "django_app_worker_timeout": 1,
    "web_connect_timeout": 1,
    "web_worker_connections": 64,
    "web_hsts_seconds": 0,
}
# And the largest, where more is not what a server or a system can do.
MAXIMA = {
    "django_app_pool_recycle": 31536000 - 600,  # wait_timeout is 600 s above it, and a year at most
    "mysql_admin_connections": 100000,
    # A node is asked to catch up, and Galera gives that up after 30 s (repl.causal_read_timeout).
    "mysql_cluster_replica_max_lag": 25,
    "budget_slack_percent": 1000,
    "django_app_threads": 1000,
    "django_app_backlog": 65535,
    "web_worker_connections": 65535,
    "django_app_limit_nofile": 1048576,
    "django_app_keep_releases": 100,
    "backup_keep_daily": 10000,
    "backup_keep_weekly": 10000,
    "backup_proof_max_age": 8784,
    "web_hsts_seconds": 2 * 31536000,
}
DAY = 86400  # no wait of a running site is longer
MAXIMA.update(
    dict.fromkeys(
        (
            "mysql_restart_wait",
            "mysql_start_timeout",
            "mysql_cluster_drain_timeout",
            "mysql_cluster_join_timeout",
            "django_app_graceful_timeout",
            "django_app_health_timeout",
            "django_app_lock_wait_timeout",
            "django_app_migrate_lock_wait_timeout",
            "django_app_pool_timeout",
            "django_app_settle_seconds",
            "django_app_statement_timeout",
            "django_app_stop_timeout",
            "django_app_worker_timeout",
            "web_connect_timeout",
            "web_read_timeout",
        ),
        DAY,
    )
)
# Names of accounts: what every server takes, and needs no care in an option file.
USERS = (
    *(f"mysql_{role}_user" for role in ("app", "migrate", "monitor", "operator")),
    "django_app_database_user",
    "django_app_database_migrate_user",
)
USER = re.compile(r"^(?!root$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$")
PORTS = (
    "mysql_admin_port",
    "mysql_extra_port",
    "mysql_cluster_proxy_port",
    "mysql_cluster_replica_port",
    "mysql_cluster_agent_port",
    "django_app_database_port",
    "web_http_port",
    "web_https_port",
)
MINIMA.update(dict.fromkeys(PORTS, 1))
MAXIMA.update(dict.fromkeys(PORTS, 65535))
SIZES = (
    "budget_host_memory",
    "budget_worker_memory",
    "budget_write_rate",
    "budget_disk",
    "backup_memory",
    "mysql_cluster_cache_size",
)


# What a deployment writes into the service's environment, and the variable that says it: counted in the plan,
# or a secret with a place of its own.
ENVIRONMENT = {
    "POOL_SIZE": "django_app_pool_size",
    "POOL_MAX_OVERFLOW": "django_app_pool_max_overflow",
    "POOL_RECYCLE": "django_app_pool_recycle",
    "POOL_TIMEOUT": "django_app_pool_timeout",
    "POOL_RENEW_FILE": "mysql_topology",
    "POOL_REPLICA_RENEW_FILE": "mysql_cluster_replica_max_lag",
    "DATABASE_REPLICA_PORT": "mysql_cluster_replica_max_lag",
    "POOL_PESSIMISTIC": "django_app_pool_pessimistic",
    "DATABASE_HOST": "django_app_database_host",
    "DATABASE_PORT": "django_app_database_port",
    "DATABASE_SOCKET": "django_app_database_socket",
    "DATABASE_NAME": "django_app_database_name",
    "DATABASE_USER": "django_app_database_user",
    "DATABASE_PASSWORD": "django_app_database_password",
    "DATABASE_CA": "django_app_database_ca",
    "DATABASE_ISOLATION": "django_app_isolation",
    "DATABASE_LOCK_WAIT_TIMEOUT": "django_app_lock_wait_timeout",
    "DATABASE_STATEMENT_TIMEOUT": "django_app_statement_timeout",
    "DJANGO_SECRET_KEY": "django_app_secret_key",
    "DJANGO_ALLOWED_HOSTS": "django_app_allowed_hosts",
    "DJANGO_CSRF_TRUSTED_ORIGINS": "django_app_csrf_trusted_origins",
    "DJANGO_HTTPS": "django_app_https",
    "DJANGO_APP_HEALTH_PATH": "django_app_health_path",
    "DJANGO_PROJECT_SETTINGS": "django_app_settings_module",
    "DJANGO_SETTINGS_MODULE": "django_app_settings_module",
    "MANAGEMENT_CONNECTIONS": "django_app_management_connections",
    "STATUS_ALLOWED_NETWORKS": "django_app_status_networks",
    "STATUS_TRUSTED_PROXIES": "django_app_trusted_proxies",
    "STATUS_PREFIX": "django_app_status_prefix",
}


def environment_problem(given):
    """(what is wrong, the mend, the environment without it) of the first entry that cannot stay, or None."""
    for key, value in given.items():
        rest = {other: kept for other, kept in given.items() if other != key}
        if key in ENVIRONMENT:
            better = ENVIRONMENT[key]
            return f"{key} is {better}'s, and what the plan counts", f"remove {key}, and set {better}", rest
        if not re.match(r"^[A-Za-z_][A-Za-z0-9_]*$", str(key)):
            return f"{key} is not the name of an environment variable", f"rename or remove {key}", rest
        if isinstance(value, str) and re.search(r"[\n\r\0]", value):
            return f"{key} has a line break in it", f"write {key} on one line", rest
    return None


@lru_cache(maxsize=4)
def load(root=ROOT):
    """({variable: option}, prefixes whose role has specs, {variable: literal default})"""
    options, covered, defaults = dict(OWN), set(), {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for role in sorted((Path(root) / "roles").glob("*")):
        specs = role / "meta" / "argument_specs.yml"
        if specs.exists():
            covered.add(role.name + "_")
            with specs.open(encoding="utf-8") as stream:
                entries = yaml.load(stream, loader)["argument_specs"]  # noqa: S506 (a safe loader)
            for entry in entries.values():
                for name, option in (entry.get("options") or {}).items():
                    options[name] = (
                        {**OWN.get(name, {}), **option} if name not in OWN else merged(name, option)
                    )
        given = role / "defaults" / "main.yml"
        if given.exists():
            with given.open(encoding="utf-8") as stream:
                for name, value in (yaml.load(stream, loader) or {}).items():  # noqa: S506
                    if "{{" not in str(value) and "{%" not in str(value):
                        defaults[name] = value
    for parameter in catalogue.CATALOGUE:
        options.setdefault(parameter.role_variable, {"type": catalogue.spec_type(parameter)})
    return options, frozenset(covered), defaults


def merged(name, option):
    """A role's own spec, with the planner's bounds laid over it."""
    result = {**OWN[name], **option}
    bounds, described = OWN[name].get("options") or {}, option.get("options") or {}
    if bounds or described:
        result["options"] = {
            key: {**described.get(key, {}), **bounds.get(key, {})} for key in {**bounds, **described}
        }
    return result


def ours(name, covered):
    """Has the name one of our prefixes (and is its role's spec there to judge it)?"""
    heads = [prefix for prefix in {*PREFIXES, *covered} if name.startswith(prefix)]
    return bool(heads) and max(heads, key=len) in covered


def nearest(name, known):
    """The known name that was meant, among those with the same prefix."""
    if name in catalogue.ALIASES:
        return catalogue.ALIASES[name]
    head = next((prefix for prefix in PREFIXES if name.startswith(prefix)), name[:4])
    tails = [other[len(head) :] for other in (*known, *SECRETS) if other.startswith(head)]
    found = difflib.get_close_matches(name[len(head) :], tails, n=1, cutoff=0.7)
    return head + found[0] if found else None


class Checker:
    """Checks one variable after the other; equal values on a thousand hosts are judged once."""

    def __init__(self, root=ROOT, found=None):
        """found(path): where this file or folder is on the controller; without it none is looked for."""
        self.found = found
        self.options, self.covered, self.defaults = load(root)
        self.seen = {}

    def check(self, host, name, value):
        """The problems of one variable on one host."""
        try:
            key = (name, type(value).__name__, str(value))
            if key not in self.seen:
                self.seen[key] = self._check(name, value)
        except RecursionError:
            return []
        return [
            {**entry, "host": host, **({"on": [host]} if "set_to" in entry else {})}
            for entry in self.seen[key]
        ]

    def _check(self, name, value):
        option = self.options.get(name)
        if option is None:
            if any(pattern.match(name) for pattern in PATTERNS):
                return []
            better = nearest(name, self.options)
            if not ours(name, self.covered) and not (better and name.startswith(PREFIXES)):
                return []
            if better in SECRETS or shown(name, "") == HIDDEN:
                value = HIDDEN
            mend = f"write {better}" if better else f"remove {name}"
            change = {name: None, better: value} if better else {name: None}
            what = f"is unknown; did you mean {better}?" if better else "is unknown"
            return [problem("", name, value, what, mend, change)]
        if value is None:
            return []
        if name in catalogue.BY_VARIABLE:
            return []  # the resolver judges it, with its unit and range
        default = option.get("default", self.defaults.get(name))
        try:
            parsed = typed(value, option)
            least = option.get("minimum", MINIMA.get(name))
            if least is not None and parsed < least:
                raise ValueError(f"is below the smallest value, {least}")
            if parsed is not None and name in MAXIMA and parsed > MAXIMA[name]:
                raise ValueError(f"is above the largest value, {MAXIMA[name]}")
            if name in SIZES and value not in ("", 0):
                units.size(value)
            if name in USERS and not USER.match(str(value)):
                raise ValueError("is not a name for an account: letters, digits, _ . -, 32 at most, not root")
            formats.check(name, value, needed=self.defaults.get(name))
            if self.found:
                self._there(name, str(value))
        except formats.FormatError as error:
            return [problem("", name, value, str(error), f"{error.mend}, or remove {name}", {name: None})]
        except ValueError as error:
            mend, change = self.mend(name, value, option, default)
            return [problem("", name, value, str(error), mend, change)]
        wrong = environment_problem(value) if name == "django_app_environment" else None
        if wrong:
            message, mend, rest = wrong
            return [problem("", name, value, message, mend, {name: rest})]
        return []

    def _there(self, name, path):
        if name in formats.FILES and path:
            place = self.found(path)
            if not place:
                raise formats.FormatError("is not a file on the controller", "put the file there")
            if name in formats.CERTIFICATES and isinstance(place, str):
                wrong = certificates.trouble(Path(place).read_text(encoding="utf-8", errors="replace"))
                if wrong:
                    raise formats.FormatError(wrong, "put one there that is valid now")
        if name == "django_app_source" and path and not formats.remote(path) and not self.found(path):
            raise formats.FormatError(
                "is no folder on the controller, and not a git URL", "write the project's folder or URL"
            )

    def mend(self, name, value, option, default):
        better = units.suggestion(value) if name in SIZES else None
        if better:
            pass
        elif default not in (None, "") and fine(default, option):
            better = default
        elif option.get("choices"):
            found = difflib.get_close_matches(
                str(value), [str(c) for c in option["choices"]], n=1, cutoff=0.4
            )
            better = found[0] if found else option["choices"][0]
        else:
            kind = "size, as 4G" if name in SIZES else option.get("type", "str")
            return f"give {name} a value of type {kind}, or remove it", {name: None}
        return f"set {name} to {better}", {name: better}


def fine(value, option):
    try:
        typed(value, option)
    except ValueError:
        return False
    return True


def typed(value, option, where=""):
    """The value as its type has it, or ValueError. Numbers may come as texts (INI inventories, -e)."""
    kind = option.get("type", "str")
    head = f"{where}: " if where else ""
    reader = READERS.get(kind)
    if reader:
        try:
            value = reader(value)
        except ValueError as error:
            raise ValueError(f"{head}{error}") from None
    elif kind == "list":
        if not isinstance(value, list | tuple):
            raise ValueError(f"{head}is not a list")
        element = option.get("elements")
        if element:
            inner = {"type": element, "options": option.get("options"), "choices": option.get("choices")}
            for count, item in enumerate(value, 1):
                typed(item, inner, f"{where}entry {count}" if not where else f"{where}, entry {count}")
            return value
    elif kind == "dict":
        if not isinstance(value, dict) and not hasattr(value, "keys"):
            raise ValueError(f"{head}is not a dictionary")
        nested(value, option.get("options"), where)
    choices = option.get("choices")
    if choices and kind != "list" and str(value) not in [str(choice) for choice in choices]:
        raise ValueError(f"{head}is not one of " + ", ".join(str(choice) for choice in choices))
    return value


def nested(value, options, where):
    if not options:
        return
    head = f"{where}: " if where else ""
    for key, item in value.items():
        if key not in options:
            better = difflib.get_close_matches(str(key), list(options), n=1, cutoff=0.6)
            hint = f"; did you mean {better[0]}?" if better else ""
            raise ValueError(f"{head}{key} is unknown{hint}")
        if item is not None:
            inner = typed(item, options[key], f"{head}{key}")
            least = options[key].get("minimum")
            if least is not None and inner < least:
                raise ValueError(f"{head}{key} is below the smallest value, {least}")
    for key, option in options.items():
        if option.get("required") and value.get(key) is None:
            raise ValueError(f"{head}{key} is missing")


def _whole(value):
    return catalogue.PARSERS["int"](None, value)


def _number(value):
    return catalogue.PARSERS["float"](None, value)


def _text(value):
    if isinstance(value, list | dict | tuple):
        raise ValueError("is not a text")
    return value


READERS = {
    "int": _whole,
    "float": _number,
    "bool": catalogue.boolean,
    "size": units.size,
    "str": _text,
    "path": _text,
    "raw": lambda value: value,
}
