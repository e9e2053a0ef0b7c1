"""What the modules of roles/mysql share: the client, option files, comparison of values.

Runs on the target with the distribution's Python alone (3.11 and later), nothing is installed for it.
"""

import contextlib
import functools
import glob
import hashlib
import json
import os
import re
import secrets
import string
import subprocess
import tempfile

TRUE = {"1", "on", "true", "yes"}
FALSE = {"0", "off", "disabled", "false", "no"}
SUFFIX = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
FIREWALL = "/etc/mysql/firewall.nft"
MAIN_FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf")


class SqlError(Exception):
    """The server's own words."""


def run(arguments, timeout=60, **more):
    """A command without a shell. Never put a secret into its arguments: others can read them."""
    try:
        return subprocess.run(  # noqa: S603
            arguments,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
            **more,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", f"{arguments[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            arguments, 124, "", f"{arguments[0]}: no answer within {timeout} s"
        )


def _unescape(field):
    if field == "NULL":
        return None
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t", "0": "\0"}.get(m.group(1), m.group(1)), field)


class Client:
    """The server's own command-line client. Statements go in by standard input, a password by a file."""

    def __init__(self, socket=None, defaults_file=None, user="root", timeout=60):
        self.program = "mariadb" if os.path.exists("/usr/bin/mariadb") else "mysql"
        self.socket, self.defaults_file, self.user, self.timeout = socket, defaults_file, user, timeout

    def query(self, *statements):
        """Rows of every statement: a list for each."""
        arguments = [self.program]
        if self.defaults_file:
            arguments.append(f"--defaults-file={self.defaults_file}")
        else:
            arguments += [
                "--no-defaults",
                "--protocol=socket",
                f"--socket={self.socket}",
                f"--user={self.user}",
            ]
        arguments += ["--batch", "--skip-column-names", "--default-character-set=utf8mb4"]
        mark = "--next--"
        text = f"\nSELECT '{mark}';\n".join(f"{statement.rstrip(';')};" for statement in statements)
        done = run(
            arguments,
            timeout=self.timeout,
            input=text + "\n",
            env={**os.environ, "MYSQL_HISTFILE": "/dev/null"},
        )
        if done.returncode != 0:
            raise SqlError(done.stderr.strip() or f"the client ended with {done.returncode}")
        results = [[]]
        for line in done.stdout.split("\n")[:-1]:  # every row ends its line; no row, no line
            if line == mark:
                results.append([])
            else:
                results[-1].append([_unescape(field) for field in line.split("\t")])
        return results

    def alive(self):
        try:
            return self.query("SELECT 1") == [[["1"]]]
        except SqlError:
            return False


def quoted(text):
    """A string literal; no NO_BACKSLASH_ESCAPES on our sessions."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "''") + "'"


def named(text):
    return "`" + str(text).replace("`", "``") + "`"


def literal(value):
    """A native value as SET GLOBAL takes it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    number = as_number(value)
    if number is not None:
        return repr(number)
    return quoted(value)


def as_number(value):
    """16M -> 16777216, '2.000' -> 2, 'x' -> None"""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return int(value) if value == int(value) else value
    match = re.match(r"^\s*([+-]?\d+(?:\.\d+)?)\s*([kmgtpe])?\s*$", str(value), re.IGNORECASE)
    if not match:
        return None
    number = float(match.group(1)) if "." in match.group(1) else int(match.group(1))
    if match.group(2):
        number *= 1024 ** SUFFIX[match.group(2).lower()]
    return int(number) if number == int(number) else number


def _plain(value):
    text = str(value).strip().strip("'\"")
    if text.startswith("/"):
        return os.path.realpath(text)
    word = text.lower()
    if word in TRUE:
        return "1"
    if word in FALSE:
        return "0"
    return ",".join(sorted(part.strip() for part in word.split(",")))


def matches(declared, live, compare="equal"):
    """Does the live value (text, as the server shows it) keep what was declared?"""
    if compare == "unreadable":
        return True
    if live is None:
        return declared is None
    want, have = as_number(declared), as_number(live)
    if compare == "at_least":
        return want is not None and have is not None and have >= want
    if isinstance(declared, bool) or want is None or have is None:
        return _plain(declared) == _plain(live)
    return want == have


def option_name(name):
    """max-connections, loose_max_connections -> max_connections"""
    word = name.strip().replace("-", "_").lower()
    return word[6:] if word.startswith("loose_") else word


def option_lines(text):
    """(section, name, value, line number) of an option file; includes as ('', '!include', path, n)."""
    section = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("!include"):
            word, _, path = line.partition(" ")
            yield "", word, path.strip(), number
        elif line.startswith("["):
            section = line.strip("[]").strip()
        else:
            name, equals, value = line.partition("=")
            value = re.split(r"\s+#", value, maxsplit=1)[0].strip().strip("'\"")
            yield section, option_name(name), value if equals else "", number


def server_groups(flavor, version):
    short = ".".join(version.split(".")[:2]) if version else ""
    groups = {"mysqld", "server", f"mysqld-{short}"}
    if flavor == "mysql":
        return groups | {"mysql_cluster"}
    return groups | {
        "client-server",
        "galera",
        "mariadb",
        "mariadbd",
        f"mariadb-{short}",
        f"mariadbd-{short}",
    }


def option_files(groups, overlay=None):
    """Every option the server reads, in its order: (name, value, file, line). `overlay`: texts of files."""
    overlay = overlay or {}
    found, seen = [], []

    def read(path):
        if path in seen or len(seen) > 200:
            return
        text = overlay.get(path)
        if text is None:
            try:
                with open(path, encoding="utf-8", errors="replace") as handle:
                    text = handle.read()
            except OSError:
                return
        seen.append(path)
        for section, name, value, number in option_lines(text):
            if name == "!include":
                read(value)
            elif name == "!includedir":
                inside = set(glob.glob(os.path.join(value, "*.cnf")))
                inside |= {path for path in overlay if os.path.dirname(path) == value.rstrip("/")}
                for entry in sorted(inside, key=os.path.basename):
                    read(os.path.join(value, os.path.basename(entry)))
            elif section in groups:
                found.append((name, value, path, number))

    for path in MAIN_FILES:
        read(path)
    return found, seen


def persisted(datadir):
    """What SET PERSIST left behind; the server reads it after every file (MySQL only)."""
    try:
        with open(os.path.join(datadir, "mysqld-auto.cnf"), encoding="utf-8") as handle:
            content = json.load(handle)
    except (OSError, ValueError):
        return {}
    found = {}
    for key, group in content.items():
        if not isinstance(group, dict):
            continue
        if key == "mysql_server":  # the shape of 8.0.0 to 8.0.28 nests once more
            for name, entry in group.items():
                inner = entry.items() if name == "mysql_server_static_options" else [(name, entry)]
                found.update({n: e.get("Value") for n, e in inner if isinstance(e, dict)})
        else:
            found.update(
                {n: e.get("Value") for n, e in group.items() if isinstance(e, dict) and "Value" in e}
            )
    return {option_name(name): value for name, value in found.items()}


def unit_state(unit, *properties):
    done = run(["systemctl", "show", unit, "--property=" + ",".join(properties)])
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines() if "=" in line)


def soft_nofile(pid):
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as handle:
            for line in handle:
                if line.startswith("Max open files"):
                    word = line.split()[3]
                    return 2**31 if word == "unlimited" else int(word)
    except (OSError, ValueError, IndexError):
        return None
    return None


def read_text(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def write_text(path, text, mode=0o644, owner=None):
    """All or nothing: a run that is cut off never leaves half a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    scratch = f"{path}.new"
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
        os.fchmod(stream.fileno(), mode)
        if owner:
            os.fchown(stream.fileno(), *owner)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


@contextlib.contextmanager
def client_file(login):
    """An option file for one login, readable by its owner alone and gone afterwards."""
    lines = ["[client]"]
    for key, option in (
        ("address", "host"),
        ("port", "port"),
        ("user", "user"),
        ("password", "password"),
        ("socket", "socket"),
        ("authority", "ssl-ca"),
    ):
        if login.get(key):
            lines.append(f"{option}={client_value(login[key])}")
    handle, path = tempfile.mkstemp(prefix="mysql-role-", suffix=".cnf")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        yield path
    finally:
        os.unlink(path)


def client_value(value):
    """Quoted for an option file, so that # and blanks in a password stay."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- accounts ----------------------------------------------------------------------------------------------
SALT = string.ascii_letters + string.digits
ITOA64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ORDER = (
    (0, 10, 20),
    (21, 1, 11),
    (12, 22, 2),
    (3, 13, 23),
    (24, 4, 14),
    (15, 25, 5),
    (6, 16, 26),
    (27, 7, 17),
    (18, 28, 8),
    (9, 19, 29),
)
ROUNDS = 5000


@functools.cache  # accounts of one name share password and salt: a hundred hosts cost one computation
def sha256_crypt(password, salt, rounds=ROUNDS):
    """Drepper's SHA-256 crypt, which caching_sha2_password stores; Python has had none since 3.13."""
    password, salt = password.encode(), salt.encode()
    again = hashlib.sha256(password + salt + password).digest()
    first = hashlib.sha256(password + salt)
    first.update((again * (len(password) // 32 + 1))[: len(password)])
    bits = len(password)
    while bits:
        first.update(again if bits & 1 else password)
        bits >>= 1
    digest = first.digest()
    p = (hashlib.sha256(password * len(password)).digest() * (len(password) // 32 + 1))[: len(password)]
    s = (hashlib.sha256(salt * (16 + digest[0])).digest() * (len(salt) // 32 + 1))[: len(salt)]
    for turn in range(rounds):
        text = p if turn & 1 else digest
        if turn % 3:
            text += s
        if turn % 7:
            text += p
        text += digest if turn & 1 else p
        digest = hashlib.sha256(text).digest()
    out = ""
    for a, b, c in ORDER:
        number = digest[a] << 16 | digest[b] << 8 | digest[c]
        for _ in range(4):
            out += ITOA64[number & 63]
            number >>= 6
    number = digest[31] << 8 | digest[30]
    for _ in range(3):
        out += ITOA64[number & 63]
        number >>= 6
    return out


@functools.cache
def new_salt(_password):
    return "".join(secrets.choice(SALT) for _ in range(20))


def stored(flavor, password, have=b""):
    """What the server keeps of this password; with the salt of `have`, so that the two can be compared."""
    if flavor == "mariadb":
        once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
        return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
    match = re.fullmatch(rb"\$A\$([0-9A-F]{3})\$(.{20})(.{43})", have, re.DOTALL)
    if not match:
        salt = new_salt(password)
        return f"$A$005${salt}{sha256_crypt(password, salt)}"
    thousands, salt = match.group(1).decode(), match.group(2).decode("latin-1")
    if any(ord(char) > 127 for char in salt):
        return None
    return f"$A${thousands}${salt}{sha256_crypt(password, salt, int(thousands, 16) * 1000)}"


PLUGIN = {"mysql": "caching_sha2_password", "mariadb": "mysql_native_password"}
# Accounts that two passwords open: user, host, what is stored of them (MySQL: of the older one) as JSON.
SECOND = {
    "mysql": "SELECT User, Host, HEX(JSON_EXTRACT(User_attributes, '$.additional_password'))"
    " FROM mysql.user"
    " WHERE JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password')",
    "mariadb": "SELECT User, Host, HEX(JSON_EXTRACT(Priv, '$**.authentication_string'))"
    " FROM mysql.global_priv"
    " WHERE JSON_LENGTH(Priv, '$.auth_or') > 1",
}


def stored_of(hexed):
    """The texts behind the third column of SECOND."""
    said = json.loads(bytes.fromhex(hexed or "6e756c6c").decode("utf-8", "replace"))
    return [text.encode("latin-1", "replace") for text in ([said] if isinstance(said, str) else said or [])]


LOCKED = {
    "mysql": "account_locked = 'Y'",
    "mariadb": "(SELECT JSON_EXTRACT(Priv, '$.account_locked') FROM mysql.global_priv g"
    " WHERE g.User = u.User AND g.Host = u.Host) = 'true'",
}
UNUSABLE = """SELECT User, Host, CONCAT_WS(' and ',
IF(%s, 'locked', NULL), IF(password_expired = 'Y', 'expired', NULL),
IF(max_questions + max_updates + max_connections > 0, 'limited by the hour', NULL)) FROM mysql.user u"""


def unusable_accounts(flavor):
    """A query: user, host, and what keeps an account with the right password out."""
    return " ".join((UNUSABLE % LOCKED[flavor]).splitlines())
