"""The workload: write a row, list the newest rows."""

import json

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from djorm_pool import retry_atomic, retry_read
from djorm_pool.routers import replica

from journal.models import Entry, new_reference

PAGE = 50
FIELDS = ("text", "source", "reference")


class Refused(ValueError):
    """What the client sent cannot be stored."""


def submitted(request: HttpRequest) -> dict[str, str]:
    """The fields of a write, from JSON or from a form."""
    if request.content_type == "application/json":
        try:
            data = json.loads(request.body or b"{}")
        except ValueError:
            raise Refused("the body is not JSON") from None
        if not isinstance(data, dict):
            raise Refused("the body must be a JSON object")
    else:
        data = request.POST.dict()
        data.pop("csrfmiddlewaretoken", None)
    unknown = sorted(set(data) - set(FIELDS))
    if unknown:
        raise Refused(f"unknown field {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    if not all(isinstance(value, str) for value in data.values()):
        raise Refused("every field must be text")
    return data


@retry_atomic
def store(fields: dict[str, str]) -> Entry:
    """May run twice: the reference is unique. A new object each time, for an old one would bring its id."""
    return Entry.objects.create(**fields)


@retry_read
def stored(reference: str) -> Entry | None:
    return Entry.objects.filter(reference=reference).first()


def newest(entries: QuerySet[Entry]) -> list[Entry]:
    """One more than a page; read again where the connection was cut."""
    return retry_read(lambda: list(entries[: PAGE + 1]), using=entries.db)()


def as_dict(entry: Entry) -> dict:
    return {
        "id": entry.pk,
        "created": entry.created.isoformat(),
        "source": entry.source,
        "text": entry.text,
        "reference": entry.reference,
    }


# Writers are programs without a session; there is no cookie that a foreign page could abuse.
@method_decorator(csrf_exempt, name="dispatch")
class Entries(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        # Who asks for it (?using=replica) reads from another node, and may not see the last second's rows.
        wanted = request.GET.get("using")
        entries = Entry.objects.using(replica() if wanted == "replica" else None)
        before = request.GET.get("before", "")
        # Pages by key, not by offset: the thousandth page costs what the first does.
        if before.isdecimal():
            entries = entries.filter(pk__lt=min(int(before), 2**63 - 1))
        reference = request.GET.get("reference")
        if reference:
            entries = entries.filter(reference=reference)
        rows = newest(entries)
        older = rows[PAGE - 1].pk if len(rows) > PAGE else None
        rows = rows[:PAGE]
        if request.GET.get("format") == "json" or not request.accepts("text/html"):
            return JsonResponse({"entries": [as_dict(row) for row in rows], "before": older})
        return render(request, "journal/entries.html", {"entries": rows, "older": older})

    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            given = submitted(request)
            fields = {name: given.get(name, "") for name in FIELDS}
            fields["reference"] = fields["reference"] or new_reference()
            # The database itself sees to uniqueness: a look beforehand would be a query that proves nothing.
            Entry(**fields).clean_fields()
        except Refused as problem:
            return JsonResponse({"error": str(problem)}, status=400)
        except ValidationError as problem:
            return JsonResponse({"error": problem.message_dict}, status=400)
        try:
            return JsonResponse(as_dict(store(fields)), status=201)
        except IntegrityError:
            entry = stored(fields["reference"])
            if entry is None:
                raise
            # A reference that was made here is nobody else's: an attempt before it was carried out after all.
            return JsonResponse(as_dict(entry), status=200 if given.get("reference") else 201)
