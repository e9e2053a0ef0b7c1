"""What a text variable may be: names, addresses, paths, times, as the files they are written into take them.

The types of roles/*/meta/argument_specs.yml stop at "text". What a unit, nginx, systemd or git would take
amiss is refused here, on paper, and with it every character that could end a line of a configuration file.
"""

import ipaddress
import re

_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_PATH = r"/[A-Za-z0-9_.@%+=:,/-]*"
_TIME = r"[0-9*/.,~]+"
_DAY = r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*"
_CALENDAR = re.compile(
    rf"(minutely|hourly|daily|weekly|monthly|quarterly|semiannually|yearly|annually"
    rf"|(?=.)({_DAY}((\.\.|,){_DAY})*,?(\s+|$))?(({_TIME}-)?{_TIME}-{_TIME}(\s+|$))?({_TIME}:{_TIME}(:{_TIME})?)?)"
    rf"(\s+(UTC|[A-Za-z_]+(/[A-Za-z0-9_+-]+)+))?",
    re.IGNORECASE,
)


def host(text):
    """Is it a host name, or an IP address as it is written alone?"""
    if re.fullmatch(r"[0-9.]+", text) or ":" in text:
        return network(text) and "/" not in text
    return bool(_HOST.fullmatch(text))


def network(text):
    """Is it an IP address, or a network in CIDR?"""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def endpoint(text):
    """Is it ADDRESS:PORT (an IPv6 address in brackets)?"""
    address, _, port = text.rpartition(":")
    inner = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    return (
        (inner == address or ":" in inner)
        and (inner != address or ":" not in inner)
        and host(inner)
        and _port(port)
    )


def _port(text):
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and 1 <= int(text) <= 65535


def upstream(text):
    """Is it an address as nginx names an upstream?"""
    return bool(re.fullmatch("unix:" + _PATH, text)) or endpoint(text)


def folder(text):
    """Is it an absolute path of a folder of one's own, with nothing that wants quoting?"""
    return bool(re.fullmatch(_PATH, text)) and ".." not in text.split("/") and text.strip("/") != ""


def within(text):
    """Is it a path inside the source?"""
    return bool(re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.@+/-]*", text)) and ".." not in text.split("/")


def filtered(text):
    """Can a packet filter let in this host of an account? It knows no names, and not everybody."""
    return text == "localhost" or network(text) or bool(re.match(r"^([0-9]{1,3}\.){1,3}%$", text))


def remote(text):
    """Is it a source that git fetches, and not a folder?"""
    return "://" in text or bool(re.match(r"[\w.-]+@[\w.-]+:", text))


def allowed_host(text):
    """Is it what Django's ALLOWED_HOSTS takes: a name, .NAME for all below it, an address, or *?"""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return text == "*" or host(inner.removeprefix("."))


def _like(pattern):
    return re.compile(pattern).fullmatch


# (is it one?, what is wanted); an empty text leaves a variable at what its role makes of it.
HOST = (host, "a host name or an IP address")
NETWORK = (network, "an IP address or a network as 192.0.2.0/24")
FOLDER = (folder, "an absolute path without spaces or quotes, not /")
WITHIN = (within, "a path inside the source, without ..")
MODULE = (_like(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"), "a Python module's name, as yoursite.settings")
NAME = (_like(r"[a-z0-9_][a-z0-9_-]{0,30}"), "a name of lower-case letters, digits, _ and -, 31 at most")
SCHEMA = (_like(r"[A-Za-z0-9_$-]{1,64}"), "a database's name: letters, digits, _ $ -, 64 at most")
PRIVILEGE = (_like(r"[A-Za-z_]+( [A-Za-z_]+)*"), "a privilege, as SELECT")
PACKAGE = (_like(r"[a-z0-9][a-z0-9.+~:=-]*"), "a package's name")
CALENDAR = (
    lambda text: _CALENDAR.fullmatch(text.strip()) is not None,
    "a time as systemd's OnCalendar has it, as *-*-* 01:00:00 UTC",
)
PREFIX = (_like(r"/?[A-Za-z0-9_.~-]+(/[A-Za-z0-9_.~-]+)*/?|/"), "the first part of an address, as /site")
URL_PATH = (_like(r"/[A-Za-z0-9_.~%/?&=+-]*"), "the part of an address that begins with /")

FORMATS = {
    "mysql_address": HOST,
    "mysql_certificate_names": HOST,
    "mysql_app_privileges": PRIVILEGE,
    "mysql_migrate_privileges": PRIVILEGE,
    "mysql_cluster_name": (
        _like(r"[A-Za-z0-9_.-]{1,32}"),
        "a name of letters, digits, _ . and -, 32 at most",
    ),
    "django_app_address": HOST,
    "django_app_allowed_hosts": (allowed_host, "a host name as ALLOWED_HOSTS takes it: no scheme, no port"),
    "django_app_allow_unsafe_migrations": (_like(r"\w+\.\w+"), "a migration, as app.0007_name"),
    "django_app_bind": (endpoint, "ADDRESS:PORT, as 192.0.2.31:8000"),
    "django_app_build_packages": PACKAGE,
    "django_app_csrf_trusted_origins": (
        _like(r"https?://[*A-Za-z0-9_.:\[\]-]+"),
        "an origin with its scheme, as https://www.example.org",
    ),
    "django_app_database_host": HOST,
    "django_app_database_name": SCHEMA,
    "django_app_database_socket": FOLDER,
    "django_app_health_path": URL_PATH,
    "django_app_home": FOLDER,
    "django_app_name": NAME,
    "django_app_packages": PACKAGE,
    "django_app_requirements": WITHIN,
    "django_app_settings_module": MODULE,
    "django_app_socket": FOLDER,
    "django_app_socket_group": NAME,
    "django_app_source_subfolder": WITHIN,
    "django_app_status_networks": NETWORK,
    "django_app_status_prefix": PREFIX,
    "django_app_trusted_proxies": NETWORK,
    "django_app_user": NAME,
    "django_app_version": (_like(r"[A-Za-z0-9_.][\w./+@~^-]*"), "a branch, a tag or a commit"),
    "django_app_writable_paths": FOLDER,
    "django_app_wsgi": (
        _like(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_][\w.]*)?"),
        "a WSGI application, as yoursite.wsgi:application",
    ),
    "web_client_max_body": (_like(r"[0-9]+[kKmMgG]?"), "a size as nginx writes it, as 10m"),
    "web_server_names": (_like(r"~?[^\s;{}\"'#]+"), "a server name as nginx takes it"),
    "web_static_max_age": (
        _like(r"([0-9]+(ms|[smhdwMy])?)+|off|max|epoch"),
        "a time as nginx writes it, as 1h",
    ),
    "web_static_root": FOLDER,
    "web_static_url": (_like(r"/[A-Za-z0-9_.~%/-]+/"), "a path of the site that begins and ends with /"),
    "mysql_firewall_networks": NETWORK,
    "web_status_networks": NETWORK,
    "web_status_prefix": PREFIX,
    "web_trusted_proxies": NETWORK,
    "web_upstreams": (upstream, "unix:/PATH or ADDRESS:PORT"),
    "backup_logs_at": CALENDAR,
    "backup_prove_at": CALENDAR,
    "backup_repository": (
        _like(r"(/|(sftp|s3|rest|rclone|b2|azure|gs|swift):)\S+"),
        "a target as restic writes it, as sftp:USER@HOST:/PATH",
    ),
    "backup_take_at": CALENDAR,
}
# Files on the controller, which have to be there before any host is touched.
FILES = ("web_tls_certificate", "web_tls_key", "mysql_ca_file", "mysql_config_template", "backup_ssh_key")
CERTIFICATES = ("web_tls_certificate", "mysql_ca_file")

# Texts of several lines, and what is judged by its keys.
LINES = ("mysql_repository", "backup_ssh_known_hosts", "django_app_environment")
# Fields of lists of dictionaries.
FIELDS = {
    "mysql_databases": {
        "name": SCHEMA,
        "charset": (_like(r"[A-Za-z0-9_]+"), "a character set, as utf8mb4"),
        "collation": (_like(r"[A-Za-z0-9_]*"), "a collation, as utf8mb4_unicode_ci"),
    },
    "django_app_services": {"name": NAME},
}
# Templates by default, so that no literal default says that they must not be empty.
NEEDED = ("django_app_home", "django_app_socket")


class FormatError(ValueError):
    """What is wrong, as the end of a sentence that begins with the variable; `mend`: what to do about it."""

    def __init__(self, message, mend):
        super().__init__(message)
        self.mend = mend


def check(name, value, needed=None):
    """Judge what a text, or each entry of a list, is made of.

    needed: the variable's literal default; where it is not empty, an empty text is no value.

    Raises:
        FormatError: for the first thing that is wrong.
    """
    if isinstance(value, str) and not value:
        if name in NEEDED or (isinstance(needed, str) and needed):
            raise FormatError("is empty", "give it one")
        return
    if name not in LINES:
        _one_line(value)
    wanted = FORMATS.get(name)
    several = isinstance(value, list | tuple)
    for count, item in enumerate(value if several else [value], 1):
        where = f"entry {count}: " if several else ""
        if wanted and isinstance(item, str | int | float) and not wanted[0](str(item)):
            raise FormatError(f"{where}is not {wanted[1]}", f"write {wanted[1]}")
        for field, (good, words) in FIELDS.get(name, {}).items():
            given = item.get(field)
            if given is not None and not good(str(given)):
                raise FormatError(f"{where}{field} is not {words}", f"write {words}")


def _one_line(value):
    """Nothing in it may end a line of a configuration file."""
    if isinstance(value, str):
        if re.search(r"[\0-\x1f\x7f]", value):
            raise FormatError("has a line break or a control character in it", "write it on one line")
    elif isinstance(value, list | tuple):
        for item in value:
            _one_line(item)
    elif hasattr(value, "values"):
        for item in value.values():
            _one_line(item)
