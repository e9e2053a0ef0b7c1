import threading

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import JsonResponse
from django.urls import path


def ask(value):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, CONNECTION_ID()", [value])
        return cursor.fetchone()


def echo(request, value):
    """The value comes back through the database: another's answer shows at once."""
    answer, number = ask(value)
    return JsonResponse({"value": answer, "connection": number, "thread": threading.get_ident()})


async def aecho(request, value):
    """On the request's own thread, and on one of the executor's, which no request ends on."""
    answer, number = await sync_to_async(ask)(value)
    again, _ = await sync_to_async(ask, thread_sensitive=False)(value)
    return JsonResponse({"value": answer if again == answer else None, "connection": number})


urlpatterns = [path("echo/<int:value>/", echo), path("aecho/<int:value>/", aecho)]
