import threading

from django.db import connection
from django.http import JsonResponse
from django.urls import path


def echo(request, value):
    """The value comes back through the database: another's answer shows at once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, CONNECTION_ID()", [value])
        answer, number = cursor.fetchone()
    return JsonResponse({"value": answer, "connection": number, "thread": threading.get_ident()})


urlpatterns = [path("echo/<int:value>/", echo)]
