"""Which migrations are stopped because the release in service would not survive them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each: what it is, the operations in a migration of the journal, words of the verdict (none: it may go).
CASES = [
    ("a new table", "migrations.CreateModel('Note', [('id', models.AutoField(primary_key=True))])", None),
    ("a column that may be NULL", "migrations.AddField('entry', 'a', models.IntegerField(null=True))", None),
    (
        "a column with the database's default",
        "migrations.AddField('entry', 'a', models.IntegerField(db_default=3))",
        None,
    ),
    (
        "a column that the old code does not fill",
        "migrations.AddField('entry', 'a', models.IntegerField(default=3))",
        "journal_entry.a is NOT NULL without a default",
    ),
    (
        "a foreign key",
        "migrations.AddField('entry', 'u', models.ForeignKey('auth.User', models.CASCADE, null=True))",
        "journal_entry.u_id gets a foreign key",
    ),
    (
        "a reference without a foreign key",
        "migrations.AddField('entry', 'u', models.ForeignKey('auth.User', models.CASCADE, null=True,"
        " db_constraint=False))",
        None,
    ),
    (
        "many to many, a table of its own",
        "migrations.AddField('entry', 'us', models.ManyToManyField('auth.User'))",
        None,
    ),
    ("an index", "migrations.AddIndex('entry', models.Index(fields=['source'], name='i'))", None),
    ("a column removed", "migrations.RemoveField('entry', 'source')", "journal_entry.source disappears"),
    ("a table removed", "migrations.DeleteModel('Entry')", "table journal_entry disappears"),
    ("a table renamed", "migrations.RenameModel('Entry', 'Row')", "table journal_entry disappears"),
    ("a column renamed", "migrations.RenameField('entry', 'source', 'origin')", "entry.source disappears"),
    (
        "a name that the database does not see",
        "migrations.AlterField('entry', 'source', models.CharField(max_length=64, db_column='source')),"
        " migrations.RenameField('entry', 'source', 'origin')",
        None,
    ),
    (
        "a wider VARCHAR",
        "migrations.AlterField('entry', 'reference', models.CharField(max_length=200, unique=True))",
        None,
    ),
    (
        "a VARCHAR whose length takes another byte",
        "migrations.AddField('entry', 'a', models.CharField(max_length=60, null=True)),"
        " migrations.AlterField('entry', 'a', models.CharField(max_length=70, null=True))",
        "entry.a changes from varchar(60) to varchar(70)",
    ),
    (
        "a narrower VARCHAR",
        "migrations.AlterField('entry', 'text', models.CharField(max_length=100))",
        "entry.text changes from varchar(1000) to varchar(100)",
    ),
    (
        "another type",
        "migrations.AlterField('entry', 'source', models.IntegerField(null=True))",
        "entry.source changes from varchar(64)",
    ),
    (
        "NULL no more",
        "migrations.AddField('entry', 'a', models.IntegerField(null=True)),"
        " migrations.AlterField('entry', 'a', models.IntegerField(db_default=1))",
        "entry.a takes no NULL any more",
    ),
    (
        "unique from now on",
        "migrations.AlterField('entry', 'source', models.CharField(max_length=64, unique=True))",
        "(source) is unique in journal_entry",
    ),
    (
        "unique by constraint",
        "migrations.AddConstraint('entry', models.UniqueConstraint(fields=['source', 'text'], name='c'))",
        "(source, text) is unique in journal_entry",
    ),
    (
        "unique where the old code leaves it empty",
        "migrations.AddField('entry', 'a', models.IntegerField(null=True, unique=True))",
        None,
    ),
    (
        "unique no more",
        "migrations.AlterField('entry', 'reference', models.CharField(max_length=64))",
        None,
    ),
    ("SQL", "migrations.RunSQL('SELECT 1')", "what RunSQL does"),
    ("Python", "migrations.RunPython(print)", "what RunPython does"),
    ("nothing", "migrations.RunPython(migrations.RunPython.noop), migrations.RunSQL('')", None),
    (
        "a column that only the code forgets",
        "migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField('entry', 'source')])",
        None,
    ),
    (
        "a column that only the database loses",
        "migrations.SeparateDatabaseAndState([migrations.RemoveField('entry', 'source')])",
        "journal_entry.source disappears",
    ),
    (
        "a table made and removed at once",
        "migrations.CreateModel('Note', [('id', models.AutoField(primary_key=True))]),"
        " migrations.DeleteModel('Note')",
        None,
    ),
]
SCRIPT = """
import json, sys
import django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "journal"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.core.management import call_command
from django.db import connection, migrations, models
from django.db.migrations.executor import MigrationExecutor
call_command("migrate", verbosity=0)
from djorm_expand import unsafe
out = []
for text in json.load(sys.stdin):
    state = MigrationExecutor(connection)._create_project_state(with_applied_migrations=True)
    migration = migrations.Migration("0009_next", "journal")
    migration.operations = list(eval(f"[{text}]"))
    found = unsafe([migration], state)
    assert set(found) <= {"journal.0009_next"}
    out.append(sum(found.values(), []))
print(json.dumps(out))
"""


@pytest.fixture(scope="session")
def verdicts():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([operations for _, operations, _ in CASES]),
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'roles/django_app/files'}:{ROOT / 'app'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip([name for name, _, _ in CASES], json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, _, words in CASES])
def test_what_may_go_and_what_is_stopped(name, words, verdicts):
    if words is None:
        assert verdicts[name] == []
    else:
        assert any(words in problem for problem in verdicts[name]), verdicts[name]
        assert all(problem.startswith("journal.0009_next, ") for problem in verdicts[name])
