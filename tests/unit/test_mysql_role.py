"""The Python of roles/mysql that needs no server: comparison, option files, hashes, the file's judgement."""

import importlib.util
import itertools
import json
import os
import stat
import sys
import types

import pytest
from ansible.errors import AnsibleActionFail, AnsibleFilterError


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def role(root):
    """The role's modules, with module_utils where Ansible would put it."""
    base = root / "roles" / "mysql"
    shared = load(base / "module_utils" / "mysql_role.py", "ansible.module_utils.mysql_role")
    sys.modules["ansible.module_utils.mysql_role"] = shared
    found = {path.stem: load(path, path.stem) for path in (base / "library").glob("*.py")}
    found["filters"] = load(base / "filter_plugins" / "mysql_role.py", "mysql_role_filters")
    found["secrets"] = load(base / "action_plugins" / "mysql_secrets.py", "mysql_secrets")
    yield types.SimpleNamespace(shared=shared, **found)
    del sys.modules["ansible.module_utils.mysql_role"]


@pytest.mark.parametrize(
    ("declared", "live", "compare", "same"),
    [
        (3000, "3000", "equal", True),
        (3000, "214", "equal", False),
        (True, "ON", "equal", True),
        (True, "1", "equal", True),
        (True, "OFF", "equal", False),
        (False, "DISABLED", "equal", True),  # have_symlink
        (False, "YES", "equal", False),
        (False, "0", "equal", True),
        (15000, "20000", "at_least", True),
        (15000, "10000", "at_least", False),
        (15000, None, "at_least", False),
        (90, "90.000000", "normalised", True),
        ("READ-COMMITTED", "READ-COMMITTED", "normalised", True),
        ("READ-COMMITTED", "REPEATABLE-READ", "normalised", False),
        ("16M", "16777216", "normalised", True),
        ("TLSv1.2,TLSv1.3", "TLSv1.3, TLSv1.2", "normalised", True),
        ("TLSv1.2,TLSv1.3", "TLSv1.1,TLSv1.2,TLSv1.3", "normalised", False),
        ("/var/lib/mysql", "/var/lib/mysql/", "normalised", True),
        ("/var/lib/mysql", "/srv/mysql/", "normalised", False),
        ("anything", None, "unreadable", True),
        ("x", None, "equal", False),
    ],
)
def test_comparison(role, declared, live, compare, same):
    assert role.shared.matches(declared, live, compare) is same


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "1"), (3000, "3000"), (2.5, "2.5"), ("32M", "33554432"), ("a'b\\", "'a''b\\\\'")],
)
def test_literals(role, value, text):
    assert role.shared.literal(value) == text


def test_option_files_are_read_in_the_servers_order(role, tmp_path, monkeypatch):
    main, folder = tmp_path / "my.cnf", tmp_path / "conf.d"
    folder.mkdir()
    main.write_text(f"[mysqld]\nmax-connections = 1\n!includedir {folder}/\n[client]\nport=1\n")
    (folder / "a.cnf").write_text("[mysqld]\nmax_connections=2 # two\n[mysqldump]\nmax_connections=9\n")
    (folder / "zzz.cnf").write_text("[server]\nloose-max_connections = 4\nskip-name-resolve\n")
    (folder / "not-read.txt").write_text("[mysqld]\nmax_connections=5\n")
    ours = str(folder / "zz.cnf")
    monkeypatch.setattr(role.shared, "MAIN_FILES", (str(main),))
    groups = role.shared.server_groups("mysql", "9.7.4")
    found, files = role.shared.option_files(groups, {ours: "[mysqld]\nmax_connections = 3\n"})
    assert [value for name, value, *_ in found if name == "max_connections"] == ["1", "2", "3", "4"]
    assert ("skip_name_resolve", "", str(folder / "zzz.cnf"), 3) in found
    assert files == [str(main), str(folder / "a.cnf"), ours, str(folder / "zzz.cnf")]


def test_persisted_variables_of_either_shape(role, tmp_path):
    assert role.shared.persisted(str(tmp_path)) == {}
    now = {"Version": 2, "mysql_dynamic_variables": {"max_connections": {"Value": "7", "Metadata": {}}}}
    (tmp_path / "mysqld-auto.cnf").write_text(json.dumps(now))
    assert role.shared.persisted(str(tmp_path)) == {"max_connections": "7"}
    old = {
        "Version": 1,
        "mysql_server": {
            "max_connections": {"Value": "8"},
            "mysql_server_static_options": {"back_log": {"Value": "9"}},
        },
    }
    (tmp_path / "mysqld-auto.cnf").write_text(json.dumps(old))
    assert role.shared.persisted(str(tmp_path)) == {"max_connections": "8", "back_log": "9"}


def test_hashes_are_those_that_servers_keep(role):
    """Drepper's own test of SHA-256 crypt (openssl passwd -5 agrees), and the one of MySQL's manual."""
    crypted = role.shared.sha256_crypt("Hello world!", "saltstring")
    assert crypted == "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
    assert role.shared.stored("mariadb", "mypass") == "*6C8989366EAF75BB670AD8EA7A7FC1176A95CEF4"
    made = role.shared.stored("mysql", "secret")
    assert len(made) == 7 + 20 + 43
    assert role.shared.stored("mysql", "secret", made.encode()) == made
    assert role.shared.stored("mysql", "other", made.encode()) != made
    # made by MySQL 9.7 itself: 10,000 rounds, a salt of any bytes below 128
    served = bytes.fromhex(
        "244124303041247B59627C41606B61325C15457E63152B7F19590544496A56746743"
        "3579443777444A72746A582E416E776D5753664E4352415057374877474A527376373633"
    )
    assert role.shared.stored("mysql", "abc", served).encode("latin-1") == served
    assert role.shared.stored("mysql", "abd", served).encode("latin-1") != served


def test_the_binarys_words_name_our_variable(role):
    job = object.__new__(role.mysql_server_config.Job)
    job.path = "/etc/mysql/x.cnf"
    job.settings = [
        {"name": "max_connections", "value": 3, "file_value": "3", "role_variable": "mysql_max_connections"},
        {"name": "nonesuch", "value": 1, "file_value": "1", "role_variable": "mysql_extra_settings"},
    ]
    line = "2026-11-23T03:26:40 0 [ERROR] [MY-000067] [Server] unknown variable 'nonesuch=1'."
    assert job.blame(line).startswith("mysql_extra_settings.nonesuch=1: ")
    assert job.blame("[ERROR] mariadbd: bad 'max-connections'").startswith("mysql_max_connections=3: ")
    assert job.blame("[ERROR] who knows").startswith("/etc/mysql/x.cnf: ")


@pytest.fixture
def adopted(role):
    """A server that served before we came, listening on every address."""
    job = object.__new__(role.mysql_server_config.Job)
    job.path, job.before, job.cut_off, job.running = "/etc/mysql/conf.d/zz-managed.cnf", None, False, True
    job.live = {"bind_address": "0.0.0.0", "skip_networking": "OFF"}  # noqa: S104 (what the server says)
    more = {"compare": "equal", "section": "mysqld"}
    job.settings = [
        {
            "name": "bind_address",
            "value": "127.0.0.1",
            "role_variable": "mysql_bind_address",
            "origin": "departure",
        },
        {
            "name": "max_connections",
            "value": 3000,
            "role_variable": "mysql_max_connections",
            "origin": "article",
        },
    ]
    job.settings = [entry | more for entry in job.settings]
    job.found = [
        ("max_connections", "151", "/etc/mysql/my.cnf", 9),
        ("max_connections", "500", "/etc/mysql/conf.d/theirs.cnf", 3),
        ("max_connections", "3000", job.path, 1),
    ]
    job.client = types.SimpleNamespace(query=lambda _: [[["shop", "%"]]])
    job.warned = []
    job.module = types.SimpleNamespace(warn=job.warned.append)
    return job


def test_others_who_come_over_the_network_are_not_shut_out(role, adopted):
    with pytest.raises(role.mysql_server_config.Refusal, match="shop@% may come from other hosts"):
        adopted.check_adoption()
    adopted.settings[0]["origin"] = "user"  # who says it, means it
    adopted.check_adoption()


def test_whose_words_count_no_longer_is_said_once(adopted):
    adopted.client.query = lambda _: [[]]
    adopted.check_adoption()
    assert len(adopted.warned) == 1
    assert "theirs.cnf:3: max_connections = 500 counts no longer" in adopted.warned[0]
    assert "set mysql_max_connections: 500" in adopted.warned[0]
    adopted.warned.clear()
    adopted.before = "of an earlier run"
    adopted.check_adoption()
    assert not adopted.warned


@pytest.fixture
def action(role, tmp_path, monkeypatch):
    def run(check=False, **wanted):
        plugin = object.__new__(role.secrets.ActionModule)
        plugin._task = types.SimpleNamespace(args={"folder": str(tmp_path / "s"), "host": "db1", **wanted})
        plugin._task.check_mode = check
        monkeypatch.setattr(role.secrets.ActionBase, "run", lambda self, tmp, task_vars: {})
        return plugin.run()

    return run


def test_passwords_are_made_once_and_kept_to_the_owner(action, tmp_path):
    first = action(passwords={"app": "", "monitor": "given"}, on_server=[])
    assert first["changed"] and first["passwords"]["monitor"] == "given"
    files = {path.name: path for path in (tmp_path / "s").iterdir()}
    assert "mysql_monitor_password" not in files
    assert stat.S_IMODE(files["mysql_app_password"].stat().st_mode) == 0o600
    again = action(passwords={"app": ""}, on_server=["app"])
    assert again["passwords"]["app"] == first["passwords"]["app"] and not again["changed"]


def test_a_controller_without_the_secrets_never_makes_new_ones(action, tmp_path):
    with pytest.raises(AnsibleActionFail, match="db1: mysql_app_password: the account is on the server"):
        action(passwords={"app": "", "monitor": ""}, on_server=["app"])
    with pytest.raises(AnsibleActionFail, match="does not answer"):
        action(passwords={"app": ""}, on_server=[], unsure=True)
    assert not list((tmp_path / "s").glob("mysql_*"))


def test_check_mode_makes_nothing(action, tmp_path):
    assert action(check=True, passwords={"app": ""}, tls={"names": ["db1"], "state": {}})["changed"]
    assert not (tmp_path / "s").exists()


NAMES = ["app", "migrate", "monitor", "operator"]


def kept(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "s").glob("mysql_*_password")}


@pytest.fixture
def rotate(action, tmp_path):
    action(passwords=dict.fromkeys(NAMES, ""), on_server=[])
    return lambda **wanted: action(**({"names": NAMES, "given": [], "rotate": NAMES} | wanted))


def test_a_rotation_makes_each_password_once_until_it_is_ended(action, rotate, tmp_path):
    before = kept(tmp_path)
    first = rotate()
    after = kept(tmp_path)
    assert first["changed"] and not first["resumed"] and all(after[name] != before[name] for name in before)
    assert not any(text.strip() in str(first) for text in (*before.values(), *after.values()))
    assert action(passwords=dict.fromkeys(NAMES, ""))["rotating"]
    assert rotate()["resumed"] and kept(tmp_path) == after
    action(rotated=True)
    assert not action(passwords=dict.fromkeys(NAMES, ""))["rotating"]
    assert not rotate()["resumed"] and kept(tmp_path) != after
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").iterdir()} == {0o600}


def test_a_rotation_cut_off_at_any_file_is_gone_on_with(rotate, role, tmp_path, monkeypatch):
    whole, start, points = os.replace, kept(tmp_path), 1 + len(NAMES)
    for point in range(points):
        for name, text in start.items():
            (tmp_path / "s" / name).write_text(text)
        (tmp_path / "s" / "rotation.json").unlink(missing_ok=True)
        left = iter(range(point))

        def replace(source, target, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            whole(source, target)

        monkeypatch.setattr(role.secrets.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            rotate()
        monkeypatch.setattr(role.secrets.os, "replace", whole)
        made = {name: text for name, text in kept(tmp_path).items() if text != start[name]}
        assert rotate()["resumed"] is (point > 0)
        assert all(text != start[name] for name, text in kept(tmp_path).items()), f"point {point}"
        assert made.items() <= kept(tmp_path).items(), "what is made may be on a server"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"rotate": ["root"]}, "db1: rotate_accounts: root is no account of ours; mend: some of app, "),
        ({"given": ["app"]}, "db1: mysql_app_password: a variable says it, .* run playbook.yml"),
    ],
)
def test_what_cannot_be_rotated(rotate, tmp_path, wanted, words):
    before = kept(tmp_path)
    with pytest.raises(AnsibleActionFail, match=words):
        rotate(**wanted)
    assert kept(tmp_path) == before and not (tmp_path / "s" / "rotation.json").exists()


def test_a_rotation_without_the_files(rotate, tmp_path):
    (tmp_path / "s" / "mysql_app_password").unlink()
    with pytest.raises(AnsibleActionFail, match=r"mysql_app_password: there is no .* mend: copy the folder"):
        rotate()


def test_what_is_stored_of_a_second_password_is_read(role):
    for flavor, said in (("mysql", '"%s"'), ("mariadb", '["x", "%s"]')):
        text = role.shared.stored(flavor, "old")
        found = role.shared.stored_of((said % text).encode().hex())
        assert text.encode() in found
    assert role.shared.stored_of("") == []


def test_certificates_are_renewed_only_with_the_authoritys_key(action, tmp_path):
    first = action(tls={"names": ["10.0.0.1", "db1"], "state": {"present": False}})
    tls = first["tls"]
    state = {
        "present": True,
        "verified": True,
        "days": 700,
        "names": ["10.0.0.1", "db1"],
        "authority": tls["ca"],
    }
    assert action(tls={"names": ["10.0.0.1"], "state": state})["tls"] == {}
    for change in ({"days": 3}, {"names": ["db1"]}, {"verified": False}):
        renewed = action(tls={"names": ["10.0.0.1"], "state": {**state, **change}})["tls"]
        assert renewed["ca"] == tls["ca"] and renewed["cert"] != tls["cert"], change
    (tmp_path / "s" / "ca-key.pem").unlink()
    assert action(tls={"names": ["10.0.0.1"], "state": state})["tls"] == {}
    with pytest.raises(AnsibleActionFail, match="without its key"):
        action(tls={"names": ["10.0.0.1"], "state": {**state, "days": 3}})


@pytest.mark.parametrize("left", [29, -1])
def test_an_authority_that_ends_is_made_anew_with_its_key(action, role, tmp_path, monkeypatch, left):
    from cryptography import x509

    monkeypatch.setattr(role.secrets, "CA_DAYS", left)
    old = action(tls={"names": ["db1"], "state": {}})["tls"]
    state = {"present": True, "verified": left > 0, "days": 700, "names": ["db1"], "authority": old["ca"]}
    monkeypatch.setattr(role.secrets, "CA_DAYS", 3650)
    assert action(check=True, tls={"names": ["db1"], "state": state})["changed"]
    new = action(tls={"names": ["db1"], "state": state})["tls"]
    assert (tmp_path / "s" / "ca.pem").read_text() == new["ca"] != old["ca"]
    assert role.secrets.days_left(new["ca"]) > 3640
    # who has only one of the two authorities takes both certificates
    for authority, certificate in itertools.product((old["ca"], new["ca"]), (old["cert"], new["cert"])):
        leaf = x509.load_pem_x509_certificate(certificate.encode())
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    assert (
        action(tls={"names": ["db1"], "state": state | {"verified": True, "authority": new["ca"]}})["tls"]
        == {}
    )


def test_another_controller_takes_the_authoritys_certificate_from_the_server(action, tmp_path):
    text = "-----BEGIN CERTIFICATE-----\nx\n"
    state = {"present": True, "verified": True, "days": 700, "names": ["db1"], "authority": text}
    assert action(tls={"names": ["db1"], "state": state})["tls"] == {}
    assert (tmp_path / "s" / "ca.pem").read_text() == text
    assert not (tmp_path / "s" / "ca-key.pem").exists()


def test_accounts_follow_the_plan_and_the_operator_is_added(role):
    planned = [
        {"name": "shop", "role": "app", "host": "10.0.0.5", "max_user_connections": 88, "require_tls": True}
    ]
    names = {"app": "shop", "migrate": "migrate", "monitor": "monitor", "operator": "operator"}
    rows = role.filters.mysql_accounts(
        planned,
        names,
        dict.fromkeys(names, "p"),
        [{"name": "journal"}],
        {"app": ["SELECT"]},
        {"operator": ["PROCESS"]},
    )
    assert [(row["name"], row["host"]) for row in rows] == [
        ("shop", "10.0.0.5"),
        ("operator", "localhost"),
        ("operator", "127.0.0.1"),
        ("monitor", "localhost"),
    ]
    assert rows[0]["databases"] == ["journal"] and rows[0]["privileges"] == ["SELECT"]
    assert rows[0]["max_user_connections"] == 88 and rows[0]["require_tls"]
    assert rows[1]["server_privileges"] == ["PROCESS"] and rows[1]["databases"] == []


def test_the_users_word_wins_over_the_roles_own_settings(role):
    resolved = {"flavor": "mysql", "groups": {}, "settings": [{"name": "ssl_ca", "value": "/mine.pem"}]}
    rows = role.filters.mysql_with_door(resolved, "/etc/mysql/tls", 33062, 5)["settings"]
    assert [row["value"] for row in rows if row["name"] == "ssl_ca"] == ["/mine.pem"]
    assert {row["name"]: row["value"] for row in rows}["admin_port"] == 33062


@pytest.mark.parametrize(("flavor", "more"), [("mysql", set()), ("mariadb", {"symbolic_links"})])
def test_the_baseline_and_the_users_word_about_it(role, flavor, more):
    resolved = {"flavor": flavor, "groups": {}, "settings": []}
    rows = {row["name"]: row for row in role.filters.mysql_with_door(resolved, "/t", 33062, 5)["settings"]}
    assert {"local_infile", "secure_file_priv", "tls_version"} | more <= set(rows)
    assert ("symbolic_links" in rows) is bool(more)
    assert all(row["reason"] for row in rows.values())
    assert role.filters.mysql_folders({"settings": list(rows.values())}) == ["/var/lib/mysql-files"]
    resolved["settings"] = [{"name": "local-infile", "value": True}]
    rows = role.filters.mysql_with_door(resolved, "/t", 33062, 5)["settings"]
    assert [row["value"] for row in rows if "infile" in row["name"]] == [True]


# ---- the unit's sandbox --------------------------------------------------------------------------------


def confined(role, **settings):
    rows = [{"name": name, "value": value} for name, value in settings.items()]
    return role.filters.mysql_sandbox({"settings": rows}).splitlines()


def test_a_sandbox_hides_homes_and_the_common_tmp(role):
    lines = confined(
        role, datadir="/var/lib/mysql", tmpdir="/tmp", pid_file="/run/mysqld/mysqld.pid", port=3306
    )
    assert {"ProtectHome=true", "PrivateTmp=true", "NoNewPrivileges=true", "ProtectSystem=full"} <= set(lines)
    assert not [line for line in lines if line.startswith("ReadWritePaths")]


def test_no_sandbox_where_none_is_wanted(role):
    assert role.filters.mysql_sandbox({"settings": []}, False) == ""


@pytest.mark.parametrize(
    ("settings", "has"),
    [
        ({"datadir": "/home/db/data"}, {"ProtectHome=read-only", "ReadWritePaths=-/home/db/data"}),
        ({"log-error": "/root/logs/error.log"}, {"ProtectHome=read-only", "ReadWritePaths=-/root/logs"}),
        (
            {"tmpdir": "/srv/a:/home/b"},
            {"ProtectHome=read-only", "ReadWritePaths=-/home/b", "PrivateTmp=true"},
        ),
        ({"datadir": "/usr/local/mysql/data"}, {"ProtectHome=true", "ReadWritePaths=-/usr/local/mysql/data"}),
        ({"socket": "/tmp/mysql.sock"}, {"PrivateTmp=false"}),
        ({"tmpdir": "/var/tmp/db"}, {"PrivateTmp=false"}),
        ({"ssl_key": "/home/db/key.pem"}, {"ProtectHome=read-only"}),
    ],
)
def test_a_sandbox_leaves_room_for_what_the_settings_name(role, settings, has):
    assert has <= set(confined(role, **settings))


def test_what_the_server_only_reads_stays_read_only(role):
    lines = confined(role, ssl_key="/home/db/key.pem", basedir="/usr", lc_messages_dir="/usr/share/mysql")
    assert not [line for line in lines if line.startswith("ReadWritePaths")]


@pytest.mark.parametrize(
    ("out", "rows"),
    [
        ("", [[]]),
        ("\n", [[[""]]]),
        ("1\ta\\tb\n2\tNULL\n", [[["1", "a\tb"], ["2", None]]]),
        ("1\n--next--\n", [[["1"]], []]),
        ("--next--\n1\n", [[], [["1"]]]),
    ],
)
def test_rows_of_every_statement(role, monkeypatch, out, rows):
    done = types.SimpleNamespace(returncode=0, stdout=out, stderr="")
    monkeypatch.setattr(role.shared, "run", lambda *_, **__: done)
    assert role.shared.Client(socket="/s").query("a", "b") == rows


# ---- the firewall ----------------------------------------------------------------------------------------


def firewall(role, *hosts, networks=(), others=()):
    accounts = [{"name": "app", "host": host} for host in hosts]
    declared = {"accounts": accounts, "port": 3306, "admin_port": 33062}
    lines = role.filters.mysql_firewall(declared, list(networks), others).splitlines()
    return [line.strip() for line in lines if "dport" in line]


def test_a_firewall_lets_in_who_has_an_account(role):
    lines = firewall(
        role, "localhost", "10.0.0.5", "10.1.%", "10.2.0.0/255.255.255.0", "fd00::5", networks=["10.0.9.0/24"]
    )
    assert lines == [
        "tcp dport 3306 ip saddr { 10.0.0.5/32, 10.0.9.0/24, 10.1.0.0/16, 10.2.0.0/24 } accept",
        "tcp dport 3306 ip6 saddr { fd00::5/128 } accept",
        "tcp dport { 3306, 33062 } reject with tcp reset",
    ]


def test_a_firewall_with_local_accounts_lets_nobody_in(role):
    assert firewall(role, "localhost", "127.0.0.1") == ["tcp dport { 3306, 33062 } reject with tcp reset"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"networks": ["web1"]}, "mysql_firewall_networks: web1"),
        ({"others": [{"name": "bi", "connections": 3}]}, "mysql_other_users bi: %"),
        (
            {"others": [{"name": "bi", "connections": 3, "host": "bi.example.org"}]},
            "bi.example.org is no address",
        ),
    ],
)
def test_a_firewall_knows_addresses_alone(role, more, says):
    with pytest.raises(AnsibleFilterError, match=says):
        firewall(role, "10.0.0.5", **more)
