#!/usr/bin/python
"""Databases, accounts, privileges and limits of one server, in one round trip."""

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import (
    PLUGIN,
    SECOND,
    Client,
    SqlError,
    client_value,
    named,
    quoted,
    read_text,
    stored,
    stored_of,
    unusable_accounts,
    write_text,
)

DOCUMENTATION = """
module: mysql_server_accounts
short_description: Databases and accounts of a MySQL or MariaDB server
description:
  - Compares first, so that a second run sends no statement. The server gets the passwords' hashes, but for a
    new one beside an old one, which MySQL takes in clear only. Statements go to the client by standard input,
    as root by the socket.
options:
  flavor: {description: The server., type: str, required: true, choices: [mysql, mariadb]}
  socket: {description: Its Unix socket., type: path, required: true}
  databases: {description: Databases with their character set., type: list, elements: dict, required: true}
  accounts: {description: Accounts as they must be., type: list, elements: dict, required: true}
  managed: {description: Names with no other account than these, type: list, elements: str, required: true}
  keep_old: {description: An old password stays valid until a call without this, type: bool, default: false}
  cluster: {description: Is the server meant to be a node of a cluster?, type: bool, default: false}
  client_files: {description: Option files to log in with, type: list, elements: dict}
author: [the project]
"""
EXAMPLES = "# see roles/mysql/tasks/main.yml\n"
RETURN = """
actions: {description: what was done, without secrets, type: list, returned: always}
retained: {description: accounts that an old password still opens, type: list, returned: always}
"""

ROOT_PLUGIN = {"mysql": "auth_socket", "mariadb": "unix_socket"}


class Accounts:
    def __init__(self, module):
        self.module, self.wanted = module, module.params
        self.flavor = self.wanted["flavor"]
        self.client = Client(socket=self.wanted["socket"])
        self.statements, self.actions, self.retained = [], [], []

    def look(self):
        users, unusable, schema, whole, tables, databases, anonymous, root, plugins, case, second = (
            self.client.query(
                "SELECT User, Host, plugin, HEX(authentication_string), ssl_type, max_user_connections"
                " FROM mysql.user",
                unusable_accounts(self.flavor),
                "SELECT GRANTEE, TABLE_SCHEMA, PRIVILEGE_TYPE, IS_GRANTABLE"
                " FROM information_schema.SCHEMA_PRIVILEGES",
                "SELECT GRANTEE, PRIVILEGE_TYPE, IS_GRANTABLE FROM information_schema.USER_PRIVILEGES",
                "SELECT DISTINCT GRANTEE, TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLE_PRIVILEGES",
                "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME"
                " FROM information_schema.SCHEMATA",
                "SELECT COUNT(*) FROM mysql.db WHERE User = ''",
                "SHOW CREATE USER root@localhost",
                "SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'AUTHENTICATION'",
                "SELECT @@lower_case_table_names",
                SECOND[self.flavor],
            )
        )
        self.second = {(row[0], row[1]): stored_of(row[2]) for row in second}
        self.users = {(row[0], row[1]): row[2:] for row in users}
        self.unusable = {(row[0], row[1]): row[2] for row in unusable}
        self.schema = {}
        for grantee, name, privilege, grantable in schema:
            self.schema.setdefault(grantee, {}).setdefault(name, {})[privilege] = grantable
        self.whole = {}
        for grantee, privilege, grantable in whole:
            if privilege != "USAGE":
                self.whole.setdefault(grantee, {})[privilege] = grantable
        self.tables = {}
        for grantee, name, table in tables:
            self.tables.setdefault(grantee, []).append((name, table))
        self.databases = {row[0]: row[1:] for row in databases}
        self.anonymous_rights = int(anonymous[0][0])
        self.root = root[0][0] if root else ""
        self.plugins = {row[0].lower() for row in plugins}
        self.fold = case[0][0] != "0"

    def do(self, action, *statements):
        self.actions.append(action)
        self.statements += statements

    @staticmethod
    def who(user, host):
        return f"{quoted(user)}@{quoted(host)}"

    # --- databases ---------------------------------------------------------------------------------------
    def make_databases(self):
        have = {name.lower() if self.fold else name: rest for name, rest in self.databases.items()}
        for entry in self.wanted["databases"]:
            name, charset, collation = entry["name"], entry["charset"], entry["collation"]
            text = f"CHARACTER SET {charset}" + (f" COLLATE {collation}" if collation else "")
            found = have.get(name.lower() if self.fold else name)
            if found is None:
                self.do(f"database {name}", f"CREATE DATABASE {named(name)} {text}")
            elif found[0] != charset or (collation and found[1] != collation):
                self.do(f"database {name}: {text}", f"ALTER DATABASE {named(name)} {text}")

    def drop_strangers(self):
        keep = {entry["name"] for entry in self.wanted["databases"]}
        if "test" in self.databases and "test" not in keep:
            count = self.client.query(
                "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'test'"
            )[0][0][0]
            if count != "0":
                self.module.fail_json(
                    msg=f"mysql_databases: the database test has {count} tables, and every account "
                    "may use it; mend: rename or drop it, or list test in mysql_databases"
                )
            self.do("database test removed", "DROP DATABASE test")
        if self.anonymous_rights:
            self.do(
                "rights of anonymous users removed",
                "DELETE FROM mysql.db WHERE User = ''",
                "FLUSH PRIVILEGES",
            )
        wanted = {(entry["name"], entry["host"]) for entry in self.wanted["accounts"]}
        for user, host in sorted(self.users):
            role = self.flavor == "mariadb" and host == ""
            stranger = (user == "" and not role) or (user == "root" and host != "localhost")
            if stranger or (user in self.wanted["managed"] and (user, host) not in wanted and not role):
                self.do(
                    f"account {user or '(anonymous)'}@{host} removed", f"DROP USER {self.who(user, host)}"
                )

    def root_by_socket(self):
        plugin = ROOT_PLUGIN[self.flavor]
        if self.flavor == "mysql":
            if self.users[("root", "localhost")][0] == plugin:
                return
            if plugin not in self.plugins:
                self.do("plugin auth_socket", "INSTALL PLUGIN auth_socket SONAME 'auth_socket.so'")
            change = f"ALTER USER 'root'@'localhost' IDENTIFIED WITH {plugin}"
        else:
            if re.search(rf"IDENTIFIED VIA {plugin}(?! (USING|AS) )(?!.* OR )", self.root):
                return
            change = f"ALTER USER 'root'@'localhost' IDENTIFIED VIA {plugin}"
        self.do("root by socket only", change)

    # --- accounts ----------------------------------------------------------------------------------------
    def identified(self, text):
        if self.flavor == "mysql":
            return f"IDENTIFIED WITH '{PLUGIN[self.flavor]}' AS {quoted(text)}"
        return f"IDENTIFIED VIA {PLUGIN[self.flavor]} USING {quoted(text)}"

    def beside(self, password, kept):
        """The new password as the first, the old one as the second. MySQL keeps it by itself."""
        if self.flavor == "mysql":
            return f"IDENTIFIED WITH '{PLUGIN[self.flavor]}' BY {quoted(password)} RETAIN CURRENT PASSWORD"
        old = quoted(kept.decode("latin-1"))
        return f"{self.identified(stored(self.flavor, password))} OR {PLUGIN[self.flavor]} USING {old}"

    def forgotten(self, text):
        """Only the password that the account has now."""
        return "DISCARD OLD PASSWORD" if self.flavor == "mysql" else self.identified(text)

    def refuse_a_third(self, entry):
        """Applications may come with either of two passwords; a server keeps no more."""
        user, host = entry["name"], entry["host"]
        olds = self.second.get((user, host))
        if olds is None or any(
            (stored(self.flavor, entry["password"], old) or "").encode("latin-1") == old for old in olds
        ):
            return
        end = (
            f"ALTER USER {self.who(user, host)} DISCARD OLD PASSWORD"
            if self.flavor == "mysql"
            else f"ALTER USER {self.who(user, host)} IDENTIFIED BY the newer one"
        )
        self.module.fail_json(
            msg=f"account {user}@{host}: an earlier change of its password was cut off, so that two are "
            "valid and applications may have either; a third one would lock some of them out; nothing was "
            "changed; mend: give it the password of the run that was cut off, or the one before, and run "
            f"playbook.yml to its end; where both are lost, {end} on the server ends the older one"
        )

    def make_account(self, entry):
        user, host = entry["name"], entry["host"]
        who, shown = self.who(user, host), f"account {user}@{host}"
        limit, tls = entry["max_user_connections"], entry["require_tls"]
        # MySQL knows REQUIRE before WITH in both statements, MariaDB too
        rest = f"REQUIRE {'SSL' if tls else 'NONE'} WITH MAX_USER_CONNECTIONS {limit}"
        have = self.users.get((user, host))
        if have is None:
            text = stored(self.flavor, entry["password"])
            self.do(f"{shown} made, limit {limit}", f"CREATE USER {who} {self.identified(text)} {rest}")
            return
        plugin, hexed, ssl_type, has_limit = have
        kept = bytes.fromhex(hexed or "")
        text = stored(self.flavor, entry["password"], kept)
        trouble = self.unusable.get((user, host), "")
        expired = "expired" in trouble  # only a new password ends that
        if plugin != PLUGIN[self.flavor] or text is None or kept != text.encode("latin-1") or expired:
            if self.wanted["keep_old"] and plugin == PLUGIN[self.flavor] and kept and not trouble:
                self.refuse_a_third(entry)
                self.do(
                    f"{shown}: password set, the old one stays valid for now",
                    f"ALTER USER {who} {self.beside(entry['password'], kept)}",
                )
                self.retained.append(f"{user}@{host}")
            else:
                text = stored(self.flavor, entry["password"])
                self.do(f"{shown}: password set", f"ALTER USER {who} {self.identified(text)}")
        elif (user, host) in self.second:
            if self.wanted["keep_old"]:
                self.retained.append(f"{user}@{host}")
            else:
                self.do(
                    f"{shown}: the old password is no longer valid",
                    f"ALTER USER {who} {self.forgotten(text)}",
                )
        if int(has_limit) != limit or (ssl_type == "ANY") != tls:
            self.do(
                f"{shown}: limit {has_limit} -> {limit}, TLS {'required' if tls else 'not required'}",
                f"ALTER USER {who} {rest}",
            )

        if trouble:
            rest = (
                "WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 ACCOUNT UNLOCK"
            )
            self.do(f"{shown}: no longer {trouble}", f"ALTER USER {who} {rest}")

    def grant(self, entry):
        """Exactly the privileges given, on the server, on databases, on tables."""
        who = self.who(entry["name"], entry["host"])
        shown = f"{entry['name']}@{entry['host']}"
        grantee = f"'{entry['name']}'@'{entry['host']}'"
        want, have = set(entry["server_privileges"]), self.whole.get(grantee, {})
        self.level(shown, who, "*.*", want, have)
        places = {}
        for name in entry["databases"]:
            pattern = name.replace("_", r"\_").replace("%", r"\%")
            places[pattern.lower() if self.fold else pattern] = set(entry["privileges"])
        for name in entry.get("more_databases") or []:
            places[name] = {"SELECT"}
        has = self.schema.get(grantee, {})
        for name in sorted(set(places) | set(has)):
            self.level(shown, who, f"{named(name)}.*", places.get(name, set()), has.get(name, {}))
        for name, table in self.tables.get(grantee, []):
            self.do(
                f"{shown}: privileges on table {name}.{table} removed",
                f"REVOKE ALL PRIVILEGES, GRANT OPTION ON {named(name)}.{named(table)} FROM {who}",
            )

    def level(self, shown, who, place, want, have):
        extra, missing = sorted(set(have) - want), sorted(want - set(have))
        if any(grantable == "YES" for grantable in have.values()):
            self.do(f"{shown}: GRANT OPTION on {place} removed", f"REVOKE GRANT OPTION ON {place} FROM {who}")
        if extra:
            self.do(
                f"{shown}: {', '.join(extra)} on {place} removed",
                f"REVOKE {', '.join(extra)} ON {place} FROM {who}",
            )
        if missing:
            self.do(
                f"{shown}: {', '.join(missing)} on {place}", f"GRANT {', '.join(missing)} ON {place} TO {who}"
            )

    # --- a node of a cluster ---------------------------------------------------------------------------
    def follows(self):
        """Is this a node that gets its accounts from the one that writes? A new one without any transaction
        gets them here, unlogged, as the others must reach it before it can join.
        """
        if self.flavor == "mariadb":
            return False
        read_only, executed = self.client.query("SELECT @@super_read_only, @@gtid_executed")[0][0]
        if read_only == "0":
            return False
        if executed:
            return True
        if self.statements:
            self.statements = [
                "SET SQL_LOG_BIN = 0",
                "SET GLOBAL super_read_only = OFF",
                *self.statements,
                "SET GLOBAL super_read_only = ON",
            ]
        return False

    # --- option files ------------------------------------------------------------------------------------
    def client_files(self):
        for entry in self.wanted["client_files"] or []:
            text = "".join(f"{key}={client_value(value)}\n" for key, value in entry["options"].items())
            text = f"# {entry['about']}\n[client]\n{text}password={client_value(entry['password'])}\n"
            path = entry["path"]
            state = os.stat(path) if os.path.exists(path) else None
            if read_text(path) == text and (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (
                0o600,
                0,
                0,
            ):
                continue
            self.actions.append(f"file {path}")
            if not self.module.check_mode:
                write_text(path, text, 0o600, (0, 0))


def main():
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "required": True, "choices": ["mysql", "mariadb"]},
            "socket": {"type": "path", "required": True},
            "managed": {"type": "list", "elements": "str", "required": True},
            "databases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "charset": {"type": "str", "default": "utf8mb4"},
                    "collation": {"type": "str", "default": ""},
                },
            },
            "accounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "host": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                    "max_user_connections": {"type": "int", "default": 0},
                    "require_tls": {"type": "bool", "default": False},
                    "databases": {"type": "list", "elements": "str", "default": []},
                    "more_databases": {"type": "list", "elements": "str", "default": []},
                    "privileges": {"type": "list", "elements": "str", "default": []},
                    "server_privileges": {"type": "list", "elements": "str", "default": []},
                },
            },
            "keep_old": {"type": "bool", "default": False},
            "cluster": {"type": "bool", "default": False},
            "client_files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "path", "required": True},
                    "about": {"type": "str", "required": True},
                    "options": {"type": "dict", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                },
            },
        },
        supports_check_mode=True,
    )
    job = Accounts(module)
    try:
        job.look()
        job.make_databases()
        job.drop_strangers()
        job.root_by_socket()
        for entry in module.params["accounts"]:
            job.make_account(entry)
            job.grant(entry)
        if job.wanted["cluster"] and job.follows():
            job.actions.clear()  # the node that writes has them, or gets them, and sends them here
            job.retained.clear()
        elif job.statements and not module.check_mode:
            job.client.query(*job.statements)
        job.client_files()
    except SqlError as error:
        module.fail_json(msg=f"The server did not take the accounts: {error}", actions=job.actions)
    module.exit_json(changed=bool(job.actions), actions=job.actions, retained=job.retained)


if __name__ == "__main__":
    main()
