"""What a deployment asks of a release before it may serve: check, migrate, gate. Run by the role.

The last line of output is the verdict as JSON.
"""

import json
import os
import sys
import traceback


def check() -> dict:
    """The project loads, Django's checks pass, there is a WSGI application, static files."""
    from django.apps import apps
    from django.core.management import call_command
    from django.core.servers.basehttp import get_internal_wsgi_application

    call_command("check")
    get_internal_wsgi_application()
    if apps.is_installed("django.contrib.staticfiles") and os.environ.get("DJANGO_STATIC_ROOT"):
        call_command("collectstatic", interactive=False, verbosity=0)
    return {"ok": True}


def plan() -> list[str]:
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in steps]


def objections() -> list[str]:
    """What of the pending would harm the release in service, but for what the deployment allows by name."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor
    from djorm_expand import unsafe

    executor = MigrationExecutor(connection)
    if not executor.loader.applied_migrations:
        return []  # a new database: nothing is in service on it
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    state = executor._create_project_state(with_applied_migrations=True)
    allowed = os.environ.get("DJANGO_APP_ALLOW_UNSAFE_MIGRATIONS", "").split(",")
    found = unsafe([migration for migration, _ in steps], state)
    refused = {name: problems for name, problems in found.items() if name not in allowed}
    if not refused:
        return []
    return [
        *(problem for problems in refused.values() for problem in problems),
        "mend: a release that adds without taking away; what the old code no longer uses goes with a later "
        "release, allowed by name, as does what was seen to be harmless: "
        f"django_app_allow_unsafe_migrations: [{', '.join(refused)}]",
    ]


def migrate() -> dict:
    """Apply what is pending, if anything is."""
    pending = plan()
    if pending:
        problems = objections()
        if problems:
            return {"ok": False, "error": "\n".join(["nothing was applied:", *problems])}
        from django.core.management import call_command

        try:
            call_command("migrate", interactive=False, verbosity=1)
        except Exception as problem:
            # What is still pending begins with the one that failed.
            raise RuntimeError(f"{(plan() or ['a migration'])[0]} failed: {problem}") from problem
    return {"ok": True, "applied": pending}


def gate() -> dict:
    """The whole stack of this release answers its health address, by a query through its own pool."""
    from django.conf import settings
    from django.test import Client

    pending = plan()
    if pending:
        mend = "mend: the first of django_app_hosts applies them, run without --limit"
        return {"ok": False, "error": f"migrations are pending: {', '.join(pending)}; {mend}"}
    hosts = [host for host in settings.ALLOWED_HOSTS if host != "*"] or ["localhost"]
    client = Client(
        raise_request_exception=False,
        headers={"host": hosts[0].lstrip("."), "x-forwarded-proto": "https", "accept": "*/*"},
    )
    path = os.environ["DJANGO_APP_HEALTH_PATH"]
    response = client.get(path)
    if response.status_code >= 400:
        body = b"" if response.streaming else response.content[:300]
        said = body.decode("utf-8", "replace")
        return {"ok": False, "error": f"{path} answers {response.status_code}: {said}"}
    return {"ok": True, "status": response.status_code}


def described(problem: BaseException) -> str:
    """The problem and the place in the project it comes from; a full traceback buries both."""
    frames = traceback.extract_tb(problem.__traceback__)
    here = os.getcwd()
    ours = [frame for frame in frames if frame.filename.startswith(here)]
    last = (ours or frames)[-1]
    name = os.path.relpath(last.filename, here) if ours else last.filename
    cause = (
        f"; because of {type(problem.__cause__).__name__}: {problem.__cause__}" if problem.__cause__ else ""
    )
    return f"{type(problem).__name__}: {problem} ({name}, line {last.lineno}){cause}"


def main() -> int:
    try:
        import django

        django.setup()
        verdict = {"check": check, "migrate": migrate, "gate": gate}[sys.argv[1]]()
    except (Exception, SystemExit) as problem:
        traceback.print_exc()
        verdict = {"ok": False, "error": described(problem)}
    print(json.dumps(verdict), flush=True)
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
