from django.urls import path

from journal.views import Entries

app_name = "journal"
urlpatterns = [path("", Entries.as_view(), name="entries")]
