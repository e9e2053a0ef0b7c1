"""The test project under Celery: broker and results are folders, so that no server is needed for them."""

import os

import django
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project_settings")
django.setup()
folder = os.environ["CELERY_FOLDER"]
app = Celery("project", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{folder}/queue",
    "data_folder_out": f"{folder}/queue",
    "control_folder": f"{folder}/control",
}


@app.task
def echo(number):
    """Its own number through the database, its connection, its process."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, connection_id()", [number])
        value, identity = cursor.fetchone()
    return [int(value), identity, os.getpid()]


if os.environ.get("CELERY_EARLY"):  # the parent has a connection when it forks its workers
    from django.db import connection

    connection.ensure_connection()
