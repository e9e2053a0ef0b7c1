"""Collected static files, for the case that the reverse proxy is on another host."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotFound
from django.views.static import serve


class CollectedStatic:
    """Serves STATIC_ROOT. A proxy on the same host answers these addresses itself and we never see them."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        url = settings.STATIC_URL or ""
        # Elsewhere (a CDN), or not set: nothing to do with us. "/" would take over every address.
        self.prefix = url if url.startswith("/") and len(url) > 1 else None

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        if not self.prefix or not path.startswith(self.prefix) or request.method not in ("GET", "HEAD"):
            return self.get_response(request)
        try:
            response = serve(request, path[len(self.prefix) :], document_root=settings.STATIC_ROOT)
            response["Cache-Control"] = "public, max-age=3600"
        except Http404:
            response = HttpResponseNotFound("Not found.\n", content_type="text/plain")
        response["X-Frame-Options"] = "DENY"  # as nginx says of the files that it serves itself
        return response
