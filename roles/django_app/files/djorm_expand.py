"""Which pending migrations would break or hold up the release in service.

While releases change over, and after a rollback, the old code works on the new schema. So a migration may
add what the old code need not know, and nothing else. Each operation is judged by what the tables look like
before and after it, in Django's own words; what cannot be judged (RunSQL, RunPython, operations of others) is
named too.

Not django-migration-linter: it matches the text of the SQL, and with MySQL lets a changed column type, a new
foreign key and any SQL in lower case pass.
"""

import re

from django.db import connection as default_connection
from django.db import models
from django.db.migrations.operations import RunPython, RunSQL, SeparateDatabaseAndState

OURS = "django.db.migrations.operations."
COPIES = "the server copies the table and lets nobody write to it meanwhile"


def column(field, connection):
    """What a column is, as far as it matters to code that does not know of a change."""
    parameters = field.db_parameters(connection=connection)
    return {
        "type": parameters["type"],
        "collation": parameters.get("collation"),
        "null": field.null,
        # Both came with Django 5.0; a project may bring an older one.
        "default": getattr(field, "db_default", models.NOT_PROVIDED) is not models.NOT_PROVIDED,
        "generated": getattr(field, "generated", False),
        "stored": getattr(field, "db_persist", False),
        "key": bool(field.remote_field and getattr(field, "db_constraint", False)),
    }


def tables(state, connection):
    """Table -> its columns and what rows must fulfil."""
    found = {}
    for model in state.apps.get_models(include_auto_created=True):
        meta = model._meta
        if not meta.managed or meta.proxy:
            continue
        fields = {field.name: field for field in meta.local_concrete_fields if field.column}
        unique = [(name,) for name, field in fields.items() if field.unique]
        unique += [tuple(names) for names in meta.unique_together]
        rules = {}  # what rows must fulfil -> the columns that it is about
        for constraint in meta.constraints:
            names = tuple(getattr(constraint, "fields", ()))
            if names:
                unique.append(names)
            else:
                rules[f"constraint {constraint.name} holds"] = set()
        for names in unique:
            columns = [fields[name].column if name in fields else name for name in names]
            rules[f"({', '.join(columns)}) is unique"] = set(columns)
        found[meta.db_table] = {
            "columns": {field.column: column(field, connection) for field in fields.values()},
            "rules": rules,
        }
    return found


def widened(old, new):
    """VARCHAR grows in place, but not past 255 bytes, where its length takes a second byte."""
    sizes = [re.fullmatch(r"varchar\((\d+)\)", kind or "") for kind in (old, new)]
    if not all(sizes):
        return False
    before, after = (int(size[1]) for size in sizes)
    return before <= after and (before > 63) == (after > 63)


def harm(before, after, existing):
    """What the step from one set of tables to the other does to code that knows only the first."""
    for table in sorted(before):
        if table.lower() not in existing:
            continue
        if table not in after:
            yield f"table {table} disappears, which the release in service uses"
            continue
        old, new = before[table]["columns"], after[table]["columns"]
        for name in sorted(old.keys() - new.keys()):
            yield f"column {table}.{name} disappears, which the release in service uses"
        for name in sorted(new.keys() - old.keys()):
            if new[name]["generated"]:
                if new[name]["stored"]:
                    yield f"column {table}.{name} is computed and stored: {COPIES}"
            elif not new[name]["null"] and not new[name]["default"]:
                yield (
                    f"column {table}.{name} is NOT NULL without a default in the database (db_default): "
                    "the release in service does not know it, and its INSERTs fail"
                )
            if new[name]["key"]:
                yield f"column {table}.{name} gets a foreign key: {COPIES}"
        for name in sorted(new.keys() & old.keys()):
            was, is_ = old[name], new[name]
            if was["type"] != is_["type"] and not widened(was["type"], is_["type"]):
                yield f"column {table}.{name} changes from {was['type']} to {is_['type']}: {COPIES}"
            elif was["collation"] != is_["collation"]:
                yield f"column {table}.{name} changes its collation: {COPIES}"
            if was["null"] and not is_["null"]:
                yield f"column {table}.{name} takes no NULL any more, which the release in service may write"
            if is_["key"] and not was["key"]:
                yield f"column {table}.{name} gets a foreign key: {COPIES}"
        empty = {name for name in new.keys() - old.keys() if new[name]["null"]}
        for rule in sorted(after[table]["rules"].keys() - before[table]["rules"].keys()):
            # A column that the old code leaves NULL is never twice the same.
            if not after[table]["rules"][rule] & empty:
                yield f"from now on {rule} in {table}, and the release in service may write what does not fit"


def judge(operation, app_label, state, existing, connection):
    """What is wrong with one operation; STATE becomes what it is after it."""
    if isinstance(operation, SeparateDatabaseAndState):
        between = state.clone()
        for part in operation.database_operations:
            yield from judge(part, app_label, between, existing, connection)
        operation.state_forwards(app_label, state)
        return
    empty = (isinstance(operation, RunPython) and operation.code is RunPython.noop) or (
        isinstance(operation, RunSQL) and operation.sql == RunSQL.noop
    )
    known = type(operation).__module__.startswith(OURS) and not isinstance(operation, (RunPython, RunSQL))
    if not known:
        operation.state_forwards(app_label, state)
        if not empty:
            yield f"what {type(operation).__name__} does to tables and rows is not known here"
        return
    before = tables(state, connection)
    operation.state_forwards(app_label, state)
    yield from harm(before, tables(state, connection), existing)


def unsafe(plan, state, connection=default_connection):
    """`app.migration: what it does` for all that PLAN does to the tables there are. STATE: before it."""
    # Lower case, as a server may keep them (lower_case_table_names).
    existing = {table.lower() for table in connection.introspection.table_names()}
    found = {}
    for migration in plan:
        name = f"{migration.app_label}.{migration.name}"
        for operation in migration.operations:
            for problem in judge(operation, migration.app_label, state, existing, connection):
                found.setdefault(name, []).append(f"{name}, {operation.describe()}: {problem}")
    return found
