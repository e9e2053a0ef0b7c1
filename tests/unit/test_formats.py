"""Texts: what the files that they are written into take, and what they would not."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from planner import fleet, formats, schema

GOOD = {
    "mysql_address": ["db1", "db-1.example.org", "192.0.2.20", "2001:db8::1", "my_host"],
    "django_app_bind": ["192.0.2.31:8000", "[2001:db8::1]:8000", "0.0.0.0:80", "app1.example.org:8000"],
    "web_upstreams": [["unix:/run/a.sock"], ["192.0.2.31:8000", "app2:8000"]],
    "web_trusted_proxies": [[], ["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"]],
    "django_app_allowed_hosts": [["*"], [".example.org", "192.0.2.1", "[2001:db8::1]", "web_1"]],
    "django_app_csrf_trusted_origins": [["https://*.example.org", "http://192.0.2.1:8080"]],
    "django_app_home": ["/srv/site", "/home/site/app-1.2"],
    "django_app_wsgi": ["", "site.wsgi:application", "site.wsgi"],
    "django_app_version": ["", "main", "v1.2.3", "feature/x", "4f2a9c", "HEAD~1"],
    "web_client_max_body": ["10m", "0", "512k", 1048576],
    "web_static_max_age": ["1h", "1h30m", "max", "off", 60],
    "web_server_names": [["www.example.org", "*.example.org", r"~^www\d+\.example\.org$"]],
    "backup_repository": ["/mnt/backup", "sftp:me@host:/b", "s3:https://s3.example.org/b", "rclone:x:y"],
    "backup_take_at": [
        "daily",
        "*-*-* 01:00:00 UTC",
        "*:0/5",
        "Mon..Fri 22:30",
        "Sat,Sun 03:00 Europe/Berlin",
        "Mon *-*-1..7 04:00",
        "2026-11-25",
    ],
    "mysql_app_privileges": [["SELECT", "create temporary tables"]],
    "mysql_databases": [[{"name": "journal", "charset": "utf8mb4", "collation": ""}]],
    "backup_ssh_known_hosts": ["host ssh-ed25519 A\nhost ssh-rsa B\n"],
}
BAD = {
    "mysql_address": ["300.1.1.1", "192.0.2.20/32", "db1:3306", "-db", "a b", "db..1"],
    "django_app_bind": ["8000", ":8000", "192.0.2.31:", "192.0.2.31:0", "192.0.2.31:70000", "2001:db8::1:80"],
    "web_upstreams": [["192.0.2.31"], ["unix:run/a.sock"], ["a:1; evil"], ["http://a:80"]],
    "web_trusted_proxies": [["10.0.0.0/33"], ["proxy"], ["192.0.2.1", ""]],
    "django_app_allowed_hosts": [["https://a"], ["a:80"], [""], ["a b"]],
    "django_app_csrf_trusted_origins": [["a"], ["ftp://a"], ["https://a/b"]],
    "django_app_home": ["", "/", "//", "srv", "/srv/../etc", "/srv/a b", "/srv/a'b", "~/site"],
    "django_app_wsgi": ["site/wsgi.py", "site.wsgi:", "a b"],
    "django_app_version": ["-x", "--upload-pack=x", "a b", "$(x)"],
    "web_client_max_body": ["ten", "10 m", "10MB", "-1", ""],
    "web_static_max_age": ["an hour", "1h;", ""],
    "web_server_names": [["a b"], ["a;b"], ["a\nb"]],
    "backup_repository": ["host:/path", "b", "ftp://x"],
    "backup_take_at": ["at night", "25", "Funday 01:00", "", "01:00\nx"],
    "mysql_app_privileges": [["SELECT, DROP"], ["SELECT;"]],
    "mysql_databases": [[{"name": "a`b"}], [{"name": "a", "charset": "utf8 mb4"}], [{"name": ""}]],
    "django_app_environment": [{"A": "b\nc"}],
    "mysql_extra_settings": [{"init_connect": "SELECT 1\nskip-grant-tables"}],
}


def cases(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.fixture(scope="module")
def checker():
    return schema.Checker()


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_taken(checker, name, value):
    assert checker.check("h", name, value) == []


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_refused(checker, name, value):
    (entry,) = checker.check("h", name, value)
    assert entry["mend"]


def test_every_format_is_of_a_variable_that_there_is(checker):
    named = {*formats.FORMATS, *formats.FIELDS, *formats.FILES, *formats.LINES, *formats.NEEDED}
    assert not named - set(checker.options)


def test_a_file_of_the_controller_is_there_before_any_host_is_touched():
    hosts = {"h": {"web_tls_certificate": "/no/such.crt", "web_tls_key": "/there.key"}}
    groups = {"database": ["h"], "application": ["h"], "web": ["h"]}
    plan = fleet.plan(hosts, groups, checker=schema.Checker(found=lambda path: path == "/there.key"))
    (entry,) = plan["errors"]
    assert (entry["variable"], entry["message"]) == ("web_tls_certificate", "is not a file on the controller")
    assert fleet.plan(hosts, groups)["ok"]  # nobody looks without a way to
    hosts["h"] = {"django_app_source": "/no/such/project"}
    (entry,) = fleet.plan(hosts, groups, checker=schema.Checker(found=lambda path: False))["errors"]
    assert entry["variable"] == "django_app_source"
    hosts["h"] = {"django_app_source": "git@git.example.org:site.git"}
    assert fleet.plan(hosts, groups, checker=schema.Checker(found=lambda path: False))["ok"]


def certificate(begin, end):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now + datetime.timedelta(days=begin))
    made = builder.not_valid_after(now + datetime.timedelta(days=end)).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (certificate(-9, 9), ""),
        (certificate(-9, 9) + certificate(-9, -1), ""),  # the first one is the site's own
        ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", ""),
        (certificate(-9, -1), "expired on "),
        (certificate(1, 9), "is not valid before "),
        ("", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds no certificate"),
    ],
)
@pytest.mark.parametrize("variable", formats.CERTIFICATES)
def test_a_certificate_that_no_client_would_take_is_refused_first(tmp_path, variable, text, says):
    path = tmp_path / "certificate.pem"
    path.write_text(text)
    found = schema.Checker(found=lambda path: path).check("h", variable, str(path))
    assert [entry["message"].startswith(says) for entry in found] == ([True] if says else [])
