from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

# /healthz, /readyz, /pool/ and /pool.json are answered by status.middleware, before everything else.
urlpatterns = [
    path("", RedirectView.as_view(pattern_name="journal:entries", permanent=False), name="home"),
    path("journal/", include("journal.urls")),
    path("admin/", admin.site.urls),
]
