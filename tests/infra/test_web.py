"""Does the proxy answer as declared, seen from outside, and does it believe nobody about themselves?"""

from __future__ import annotations

import functools
import http.client
import json
import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509
from declared import at_once, confinement_of, connect, exposure_of, load, names_in


@pytest.fixture(params=names_in("web"))
def name(request) -> str:
    return request.param


def declared(name: str) -> dict:
    return load()["hosts"][name]["web"]


@functools.cache
def ask(name: str, path: str, tls: bool, forwarded: str = "") -> tuple[int, dict, bytes]:
    web, connection = declared(name), load()["hosts"][name]["connection"]
    address = "127.0.0.1" if connection["type"] == "local" else connection["host"]
    headers = {"Host": web["server_names"][0] if web["server_names"] else address, "Connection": "close"}
    if forwarded:
        headers["X-Forwarded-For"] = forwarded
    if tls:
        # Whether the certificate is one that browsers take is its owner's business, not this test's.
        context = ssl._create_unverified_context()  # noqa: S323
        client = http.client.HTTPSConnection(address, web["https_port"], timeout=15, context=context)
    else:
        client = http.client.HTTPConnection(address, web["http_port"], timeout=15)
    try:
        client.request("GET", path, headers=headers)
        response = client.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        client.close()


def site(name: str, path: str, **more) -> tuple[int, dict, bytes]:
    return ask(name, path, declared(name)["tls"], **more)


LOOK = r"""
systemctl show nginx -p ActiveState,UnitFileState
echo "exposure=$(systemd-analyze security --no-pager nginx.service | tail -n 1)"
sed -nE 's/^(NoNewPrivs|Seccomp):[[:space:]]+/\1=/p' "/proc/$(cat /run/nginx.pid)/status"
sed -nE 's/^Max open files +([0-9]+).*/files=\1/p' "/proc/$(cat /run/nginx.pid)/limits"
/usr/sbin/nginx -T 2>/dev/null | sed -nE 's/^[[:space:]]*worker_connections +([0-9]+);.*/connections=\1/p'
/usr/sbin/nginx -t -q && echo test=accepted
stat -c 'site=%%a %%U %%G' %s
sed -nE 's/^ *(proxy_(read|send)_timeout) +([0-9]+)s?;.*/\1=\3/p' %s
for key in /etc/nginx/*.key; do test -e "$key" && stat -c 'key=%%a %%U %%G' "$key"; done
# nginx reads its files when it starts workers: the newest must be younger than the site.
age=$(ps -o etimes= --ppid "$(cat /run/nginx.pid)" | sort -n | head -n 1)
test -z "$age" || test $(($(date +%%s) - age + 1)) -ge "$(stat -c %%Y %s)" || echo stale=yes
"""


@at_once(names_in("web"))
def service(name: str) -> dict:
    site = declared(name)["site"]
    done = connect(name).run(LOOK, site, site, site)
    found = {"err": done.stderr}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        found[key] = value if found.get(key, value) == value else f"{found[key]}, {value}"
    return found


def test_nginx_runs_is_enabled_and_accepts_its_configuration(name, compare):
    found, site = service(name), declared(name)["site"]
    compare("nginx runs", "active", found["ActiveState"])
    compare("nginx at boot", "enabled", found["UnitFileState"])
    compare(site, "644 root root", found.get("site", "missing"))
    if declared(name)["tls"]:
        compare("the certificate's key", "600 root root", found.get("key", "missing"))
    compare("nginx -t", "accepted", found.get("test") or f"rejected: {found['err']}")
    assert "stale" not in found, f"{site} is newer than the nginx that runs: reload it"


def test_nginx_is_confined(name, compare):
    if not declared(name)["sandbox"]:
        pytest.skip("web_unit_sandbox is false")
    found = service(name)
    exposure_of([found.get("exposure", "")], "nginx.service", 4.0, compare)
    pairs = [(key, found[key]) for key in ("NoNewPrivs", "Seccomp") if key in found]
    compare("nginx's process is confined", "NoNewPrivs 1, Seccomp 2", confinement_of(pairs))


def test_the_proxy_can_hold_who_waits(name, compare):
    need, found = declared(name)["worker_connections"], service(name)
    have, files = (int(found.get(key, 0)) for key in ("connections", "files"))
    compare("worker_connections", f"{need} or more", have, same=have >= need)
    compare("open files of nginx", f"{2 * need} or more", files, same=files >= 2 * need)


def test_timeouts_of_the_proxy(name, compare):
    for option in ("proxy_read_timeout", "proxy_send_timeout"):
        compare(
            option,
            declared(name)["read_timeout"],
            service(name).get(option, "(not in the site)"),
            same=service(name).get(option) == str(declared(name)["read_timeout"]),
        )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_from_outside(name, path):
    code, _, body = site(name, declared(name)["prefix"] + path)
    assert code == 200, body[:300]


def test_certificate_of_the_site_is_not_about_to_end(name, compare):
    if not declared(name)["tls"]:
        pytest.skip("no certificate is declared")
    connection = load()["hosts"][name]["connection"]
    address = "127.0.0.1" if connection["type"] == "local" else connection["host"]
    text = ssl.get_server_certificate((address, declared(name)["https_port"]), timeout=15)
    days = (x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc - datetime.now(UTC)).days
    compare("the site's certificate is good for days", "7 or more", days, same=days >= 7)


def test_plain_http_only_leads_to_https(name):
    if not declared(name)["tls"]:
        pytest.skip("no certificate is declared")
    code, headers, _ = ask(name, "/", False)
    assert (code, headers["location"].split(":")[0]) == (301, "https")


def test_static_files_are_served(name):
    apps = [load()["hosts"][app]["django_app"] for app in names_in("application")]
    if not any(app["reference_site"] for app in apps):
        pytest.skip("another project's static files are not known here")
    code, headers, body = site(name, declared(name)["static_url"] + "admin/css/base.css")
    assert code == 200 and headers["content-type"].startswith("text/css") and body


def test_version_of_the_proxy_is_not_told(name):
    _, headers, _ = site(name, declared(name)["prefix"] + "/healthz")
    assert headers["server"] == "nginx"


@pytest.mark.parametrize("path", ["page", "static file", "missing file", "refused address"])
def test_headers_that_browsers_heed(name, path, compare):
    web = declared(name)
    ours = any(load()["hosts"][app]["django_app"]["reference_site"] for app in names_in("application"))
    places = {
        "page": "/" if ours else f"{web['prefix']}/healthz",
        "static file": f"{web['static_url']}admin/css/base.css",
        "missing file": f"{web['static_url']}nothing-of-ours",
        "refused address": "/%2e%2e/",
    }
    code, headers, _ = site(name, places[path])
    what = f"{path} ({code})"
    compare(f"{what}: X-Content-Type-Options", "nosniff", headers.get("x-content-type-options", "missing"))
    referrer = headers.get("referrer-policy", "missing")
    compare(f"{what}: Referrer-Policy", "any", referrer, same=referrer != "missing")
    # who may frame a page is the project's own to say
    if ours or path == "refused address":
        frames = headers.get("x-frame-options", headers.get("content-security-policy", "missing"))
        compare(f"{what}: X-Frame-Options", "any", frames, same=frames != "missing")
    compare(f"{what}: HSTS", bool(web["tls"] and web["hsts_seconds"]), "strict-transport-security" in headers)


def test_claiming_to_be_local_opens_nothing(name):
    path = declared(name)["prefix"] + "/pool.json"
    honest, _, _ = site(name, path)
    claimed, _, _ = site(name, path, forwarded="127.0.0.1")
    assert claimed == honest
    networks = [
        net
        for app in names_in("application")
        for net in load()["hosts"][app]["django_app"]["status_networks"]
    ]
    if not networks and load()["hosts"][name]["connection"]["type"] != "local":
        assert honest == 403, "the pool's status is open to everybody"


def test_readiness_comes_from_a_declared_release(name):
    code, _, body = site(name, declared(name)["prefix"] + "/readyz")
    assert code == 200 and json.loads(body)["release"]
