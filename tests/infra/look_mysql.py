"""Runs on a database host, as root: one look at everything that test_mysql.py compares. It judges nothing.

It asks the server as root by the socket, as the monitor (a session like anybody's), through the
administrator's door, and as strangers who must not get in. Standard library only; what to look at comes in on
standard input.
"""

import glob
import grp
import json
import os
import pwd
import re
import shutil
import subprocess
import sys

want = json.load(sys.stdin)
client = "mariadb" if want["flavor"] == "mariadb" else "mysql"
found = {}


def run(*words, text=""):
    done = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace")
    return {"rc": done.returncode, "out": done.stdout, "err": done.stderr}


def rows(result):
    return [line.split("\t") for line in result["out"].splitlines()]


def pairs(result):
    return dict(row for row in rows(result) if len(row) == 2)


def text(path):
    try:
        with open(path, errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


# --- the server, as root, as anybody and as strangers
words = ["-BN", "--force"]
root = [client, "--no-defaults", "--protocol=socket", f"--socket={want['socket']}", "--user=root", *words]
plain = [client, "--defaults-file=/etc/mysql/monitor.cnf", *words]
door = [client, "--defaults-file=/etc/mysql/operator.cnf", *words]
tcp = ["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={want['port']}", "--skip-password"]
ask = "".join(
    f"SELECT '{name}', @@{{0}}.{name};\n" for name in want["variables"]
)  # --force skips unknown ones

found["global"] = pairs(run(*root, text=ask.format("global")))
found["session"] = pairs(run(*plain, text="SELECT 'current_user', CURRENT_USER();\n" + ask.format("session")))
mark = "--next--"
answer = run(
    *root,
    text=f"\nSELECT '{mark}';\n".join(
        [
            "SELECT User, Host, plugin, ssl_type, max_user_connections FROM mysql.user;",
            "SHOW CREATE USER root@localhost;",
            "SHOW DATABASES;",
            "SELECT COUNT(*) FROM mysql.db WHERE User = '';",
            "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.persisted_variables;",
            # accounts that an old password opens, too
            "SELECT User, Host FROM mysql.user"
            " WHERE JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password');"
            if client == "mysql"
            else "SELECT User, Host FROM mysql.global_priv WHERE JSON_LENGTH(Priv, '$.auth_or') > 1;",
            *(f"SHOW GRANTS FOR '{user}'@'{host}';" for user, host in want["accounts"]),
        ]
    ),
)
parts = [
    [line.split("\t") for line in part.splitlines() if line] for part in answer["out"].split(f"{mark}\n")
]
# A server that is down or lets root not in has no answers: what asks for one then finds nothing.
parts += [[]] * (6 + len(want["accounts"]) - len(parts))
found["root_error"] = answer["err"] if not answer["out"] else ""
found["users"], found["databases"] = parts[0], [row[0] for row in parts[2]]
found["root"], found["anonymous_rights"] = parts[1][0][0] if parts[1] else "", parts[3]
found["persisted"] = dict(parts[4])
found["second"] = [f"{user}@{host}" for user, host in parts[5]]
found["grants"] = {
    f"{user}@{host}": [row[0] for row in part]
    for (user, host), part in zip(want["accounts"], parts[6:], strict=True)
}
# Session values of everybody who is connected now; MariaDB tells no session about another one.
found["sessions"] = rows(
    run(
        *root,
        text="SELECT t.PROCESSLIST_ID, t.PROCESSLIST_USER, v.VARIABLE_NAME, v.VARIABLE_VALUE"
        " FROM performance_schema.variables_by_thread v JOIN performance_schema.threads t USING (THREAD_ID)"
        " WHERE t.PROCESSLIST_USER IS NOT NULL;\n",
    )
    if client == "mysql"
    else {"out": ""}
)
found["door"] = run(*door, text="SELECT CURRENT_USER(); SHOW GRANTS;")
found["strangers"] = {
    "root over TCP": run(client, *tcp, "--user=root", "-e", "SELECT 1"),
    "an unknown account over TCP": run(client, *tcp, "--user=nobody-of-ours", "-e", "SELECT 1"),
    "root by the socket from another system user": run(
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *root, "-e", "SELECT 1"
    ),
}
options = run("my_print_defaults", *want["groups"])["out"].splitlines()
found["next"] = [line[2:].partition("=")[::2] for line in options]

# --- the unit and its process
unit = run("systemctl", "show", want["unit"], "-p", "ActiveState,UnitFileState,Restart,MainPID,LimitNOFILE")
found["unit"] = dict(line.partition("=")[::2] for line in unit["out"].splitlines())
pid = found["unit"].get("MainPID", "0")
found["exposure"] = run("systemd-analyze", "security", "--no-pager", want["unit"])["out"].splitlines()[-1:]
found["confined"] = re.findall(r"^(NoNewPrivs|Seccomp):\s+(\d)", text(f"/proc/{pid}/status"), re.M)
found["nofile"] = [
    int(word) for word in re.findall(r"^Max open files\s+(\d+)", text(f"/proc/{pid}/limits"), re.M)
]
found["uid"] = os.stat(f"/proc/{pid}").st_uid if pid != "0" else None


# --- files
def mode(path):
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [
        oct(state.st_mode & 0o7777),
        pwd.getpwuid(state.st_uid).pw_name,
        grp.getgrgid(state.st_gid).gr_name,
    ]


def public():
    """Everything that any user of this host can read and that could hold a secret of ours."""
    for top in ("/etc/mysql", "/etc/systemd/system", "/var/log", "/tmp", "/var/tmp"):
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                state = os.lstat(path)
                if state.st_mode & 0o170004 == 0o100004 and state.st_size < 5_000_000:
                    yield path
    yield from glob.glob("/proc/[0-9]*/cmdline")


found["modes"] = {path: mode(path) for path in want["files"]}
found["datadir"] = mode(want["datadir"])
passwords = [re.search(r'^password="(.+)"$', text(path), re.M) for path in glob.glob("/etc/mysql/*.cnf")]
secrets = [match.group(1) for match in passwords if match]
secrets += re.findall(r"^[A-Za-z0-9+/=]{60,}$", text(f"{want['tls']}/server-key.pem"), re.M)
found["secrets"] = len(secrets)
found["leaks"] = [path for path in public() if any(secret in text(path) for secret in secrets)]

# --- the network
found["tls"] = run(
    *("openssl", "s_client", "-starttls", "mysql", "-connect", f"127.0.0.1:{want['port']}"),
    *("-CAfile", f"{want['tls']}/ca.pem", "-verify_return_error", "-verify_hostname", want["address"]),
)
found["firewall"] = {"rc": 127, "out": "", "err": "no nft"}
if shutil.which("nft"):
    found["firewall"] = run("nft", "--stateless", "list", "table", "inet", "mysql_role")
found["ends"] = {
    name: run("openssl", "x509", "-in", f"{want['tls']}/{name}", "-noout", "-enddate")["out"].strip()
    for name in ("ca.pem", "server-cert.pem")
}
listening = set()
for path in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in text(path).splitlines()[1:]:
        columns = line.split()
        if columns[3] == "0A":
            address, port = columns[1].split(":")
            listening.add((address, int(port, 16)))
found["listening"] = sorted(listening)
print(json.dumps(found))
