"""The reference site without a server: addresses, who may look, what is refused.

Each piece runs in a process of its own: Django's settings are made once per process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parents[2] / "app"
PREAMBLE = """
import json, os, sys, tempfile
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client()
out = {}
"""


def run(script: str, tmp_path: Path, settings: str = "", **environment) -> dict:
    """Run a piece of a session with the site on SQLite; whatever it puts into `out` comes back."""
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "DATABASE_"))},
        "DJANGO_SETTINGS_MODULE": "desk_settings",
        "DJANGO_DEBUG": "true",
        "DJANGO_ALLOWED_HOSTS": "testserver",
        "PYTHONPATH": f"{tmp_path}:{APP}",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    (tmp_path / "desk_settings.py").write_text(
        "from config.settings import *\n"
        "INSTALLED_APPS = [app for app in INSTALLED_APPS if app != 'djorm_pool']\n"
        f"NAME = {str(tmp_path / 'db')!r}\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': NAME}}\n"
        "PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']\n" + settings
    )
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script + "\nprint(json.dumps(out))"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


JOURNAL = """
def post(body, **kind):
    answer = client.post("/journal/", body, **kind)
    return [answer.status_code, answer.json()]
json_ = {"content_type": "application/json"}
out["written"] = post({"text": "one", "source": "test"}, **json_)
out["form"] = post({"text": "two"})
out["again"] = [post({"text": "three", "reference": "abc"}, **json_) for _ in range(2)]
out["empty"] = post({"text": ""}, **json_)
out["long"] = post({"text": "x" * 1001}, **json_)
out["unknown"] = post({"text": "x", "colour": "blue"}, **json_)
out["garbage"] = post("{", **json_)
out["list"] = post([1], **json_)
out["number"] = post({"text": 5}, **json_)
from journal.models import Entry
Entry.objects.bulk_create(Entry(text=f"row {n}") for n in range(60))
listing = client.get("/journal/?format=json").json()
older = client.get(f"/journal/?format=json&before={listing['before']}").json()
out["pages"] = [len(listing["entries"]), len(older["entries"]), older["before"]]
out["page"] = client.get("/journal/", headers={"accept": "text/html"}).content.decode()
out["by_reference"] = len(client.get("/journal/?format=json&reference=abc").json()["entries"])
out["odd_page"] = client.get("/journal/?format=json&before=9" + "9" * 40).status_code
call_command("makemigrations", check=True, dry_run=True, verbosity=0)
from io import StringIO
from django.core.management.base import CommandError
text = StringIO()
call_command("soak", rate=200, seconds=0.2, clients=2, json=True, stdout=text, stderr=StringIO())
out["report"] = json.loads(text.getvalue())
out["rows"] = Entry.objects.filter(text__startswith="soak row").count()
try:
    call_command("soak", rate=0, stdout=text)
except CommandError as problem:
    out["refused"] = str(problem)
try:
    call_command("soak", url="ftp://x", stdout=text)
except CommandError as problem:
    out["url"] = str(problem)
"""


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    return run(JOURNAL, tmp_path_factory.mktemp("journal"))


def test_a_write_is_answered_with_its_id(journal):
    code, row = journal["written"]
    assert code == 201 and row["id"] == 1 and row["text"] == "one" and row["source"] == "test"
    assert journal["form"][0] == 201


def test_the_same_reference_twice_is_one_row(journal):
    (first, row), (second, same) = journal["again"]
    assert (first, second) == (201, 200)
    assert row == same and journal["by_reference"] == 1


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("empty", "blank"),
        ("long", "1000"),
        ("unknown", "colour"),
        ("garbage", "not JSON"),
        ("list", "object"),
        ("number", "text"),
    ],
)
def test_bad_input_is_refused_with_its_reason(journal, what, says):
    code, body = journal[what]
    assert code == 400 and says in str(body["error"])


def test_listing_goes_back_page_by_page(journal):
    assert journal["pages"] == [50, 13, None]
    assert "row 59" in journal["page"]
    assert journal["odd_page"] == 200


def test_soak_counts_what_it_wrote(journal):
    report = journal["report"]
    assert report["rows"] == journal["rows"] == 40 and report["errors"] == 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["max"]
    assert "--rate" in journal["refused"] and "ftp" in journal["url"]


STATUS = """
def code(path, **meta):
    return client.get(path, **meta).status_code
local, far = {"REMOTE_ADDR": "127.0.0.1"}, {"REMOTE_ADDR": "203.0.113.9"}
socket = {"REMOTE_ADDR": ""}
out["healthz"] = [code("/healthz", **far), client.get("/healthz").json()["alive"]]
out["readyz"] = [code("/readyz", **far), client.get("/readyz").json()["ready"]]
out["post"] = client.post("/healthz").status_code
out["host"] = code("/healthz", HTTP_HOST="no-such-host.example")
out["codes"] = {
    "loopback": code("/pool.json", **local),
    "loopback6": code("/pool.json", REMOTE_ADDR="::1"),
    "far": code("/pool.json", **far),
    "far page": code("/pool/", **far),
    "listed": code("/pool.json", REMOTE_ADDR="192.0.2.77"),
    "listed, mapped": code("/pool.json", REMOTE_ADDR="::ffff:192.0.2.77"),
    "liar": code("/pool.json", HTTP_X_FORWARDED_FOR="127.0.0.1", **far),
    "socket": code("/pool.json", **socket),
    "socket, far": code("/pool.json", HTTP_X_FORWARDED_FOR="203.0.113.9", **socket),
    "socket, forged": code("/pool.json", HTTP_X_FORWARDED_FOR="127.0.0.1, 203.0.113.9", **socket),
    "proxy, listed": code("/pool.json", HTTP_X_FORWARDED_FOR="192.0.2.5", REMOTE_ADDR="198.51.100.1"),
    "proxy, far": code("/pool.json", HTTP_X_FORWARDED_FOR="203.0.113.9", REMOTE_ADDR="198.51.100.1"),
    "garbage": code("/pool.json", HTTP_X_FORWARDED_FOR="what?", **socket),
}
from django.contrib.auth.models import User
for name, staff in (("boss", True), ("guest", False)):
    User.objects.create_user(name, password="x", is_staff=staff)
    client.login(username=name, password="x")
    out["codes"][name] = code("/pool.json", **far)
    client.logout()
data = client.get("/pool.json", **local).json()
out["workers"] = [len(data["workers"]), data["workers"][0]["pid"] == os.getpid()]
out["page"] = client.get("/pool/", **local).content.decode()
"""


@pytest.fixture(scope="module")
def status(tmp_path_factory):
    return run(
        STATUS,
        tmp_path_factory.mktemp("status"),
        STATUS_ALLOWED_NETWORKS="192.0.2.0/24",
        STATUS_TRUSTED_PROXIES="198.51.100.1",
        DJANGO_DEBUG="false",
        DJANGO_SECRET_KEY="x" * 50,
    )


def test_health_is_for_everybody_and_for_any_host_name(status):
    assert status["healthz"] == [200, True]
    assert status["readyz"] == [200, True]
    assert status["host"] == 200
    assert status["post"] == 405


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("loopback", 200),
        ("loopback6", 200),
        ("far", 403),
        ("far page", 403),
        ("listed", 200),
        ("listed, mapped", 200),
        ("liar", 403),
        ("socket", 200),
        ("socket, far", 403),
        ("socket, forged", 403),
        ("proxy, listed", 200),
        ("proxy, far", 403),
        ("garbage", 403),
        ("boss", 200),
        ("guest", 403),
    ],
)
def test_who_sees_the_pool(status, who, expected):
    assert status["codes"][who] == expected


def test_one_process_speaks_for_itself(status):
    assert status["workers"] == [1, True]
    assert "Connection pool" in status["page"]


CONTROL = """
from pathlib import Path
from status import control, facts
folder = Path(os.environ["RUNTIME_DIRECTORY"])
dead = folder / "worker-1.sock"
import socket
left = socket.socket(socket.AF_UNIX); left.bind(str(dead)); left.close()
control.start(); control.start()
out["sockets"] = sorted(path.name for path in folder.glob("worker-*.sock"))
out["mode"] = oct((folder / f"worker-{os.getpid()}.sock").stat().st_mode & 0o777)
child = os.fork()
if child == 0:
    import time
    time.sleep(30)
    os._exit(0)
import time
deadline = time.time() + 10
while not (folder / f"worker-{child}.sock").exists() and time.time() < deadline:
    time.sleep(0.02)
time.sleep(0.1)
found = control.workers()
out["pids"] = sorted(one["pid"] for one in found) == sorted([os.getpid(), child])
out["ready"] = [one["ready"] for one in control.workers("ready")]
out["unknown"] = "unknown" in control.workers("dance")[0]["error"]
out["pending"] = control.workers("migrations")[0]["pending"]
out["tidied"] = not dead.exists()
os.kill(child, 9); os.waitpid(child, 0)
out["after"] = [one["pid"] == os.getpid() for one in control.workers()]
"""


def test_every_process_answers_on_a_line_of_its_own(tmp_path):
    folder = tmp_path / "run" / "main"
    folder.mkdir(parents=True)
    out = run(CONTROL, tmp_path, RUNTIME_DIRECTORY=str(folder))
    # A socket that nobody listens on any more is noticed, and cleared away.
    assert "worker-1.sock" in out["sockets"] and out["tidied"]
    assert out["mode"] == "0o600"
    assert out["pids"] and out["ready"] == [True, True] and out["unknown"]
    assert out["pending"] == [] and out["after"] == [True]


def test_without_a_key_it_does_not_start(tmp_path):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(APP), "DJANGO_SETTINGS_MODULE": "config.settings"}
    done = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"], env=env, capture_output=True, text=True
    )
    assert done.returncode and "DJANGO_SECRET_KEY" in done.stderr


def test_check_deploy_has_nothing_to_say_of_the_deployed_site(tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "DATABASE_"))}
    env |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DJANGO_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX",
        "DJANGO_ALLOWED_HOSTS": "www.example.org",
        "DJANGO_HTTPS": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    check = [sys.executable, str(APP / "manage.py"), "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(check, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # and it would say something: the same site over plain HTTP
    done = subprocess.run(
        check, env=env | {"DJANGO_HTTPS": "false"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "security.W008" in done.stderr


ROUTED = """
from django.db import connections, router
from djorm_pool.routers import replica
from journal.models import Entry
from django.contrib.auth.models import Group, User

Entry.objects.create(text="one", reference="r1")
out["alias"] = replica()
out["plain"] = Entry.objects.get().__class__.objects.all().db
read = Entry.objects.using(replica()).get()
out["read"] = read._state.db
out["related"] = router.db_for_read(Entry, instance=read)
out["written"] = router.db_for_write(Entry, instance=read)
read.text = "two"
read.save()
out["saved"] = [read._state.db, Entry.objects.get().text]
user = User.objects.create_user("somebody")
group = Group.objects.create(name="g")
group.user_set.add(User.objects.using(replica()).get())
out["members"] = group.user_set.count()
out["migrate"] = [router.allow_migrate(name, "journal") for name in connections]
for more in ("", "&using=replica"):
    out.setdefault("listed", []).append(len(client.get(f"/journal/?format=json{more}").json()["entries"]))
"""
REPLICA = """
DATABASES["replica"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
DATABASE_ROUTERS = ["djorm_pool.routers.ReplicaRouter"]
"""


def test_what_was_read_from_a_replica_is_saved_where_writes_go(tmp_path):
    out = run(ROUTED, tmp_path, REPLICA)
    assert (out["alias"], out["plain"], out["read"], out["related"]) == (
        "replica",
        "default",
        "replica",
        "replica",
    )
    assert out["written"] == "default" and out["saved"] == ["default", "two"]
    assert out["members"] == 1
    assert out["migrate"] == [True, False]
    assert out["listed"] == [1, 1]


def test_without_a_replica_the_same_code_reads_from_default(tmp_path):
    out = run(ROUTED, tmp_path)
    assert (out["alias"], out["read"], out["members"], out["listed"]) == ("default", "default", 1, [1, 1])
