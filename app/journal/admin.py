from django.contrib import admin

from journal.models import Entry


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ("id", "created", "source", "text")
    # Counting a journal of millions of rows for every page would be the slowest query of the site.
    show_full_result_count = False
