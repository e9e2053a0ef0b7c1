from typing import ClassVar

from django.db import migrations, models

import journal.models


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Entry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("source", models.CharField(blank=True, max_length=64)),
                ("text", models.CharField(max_length=1000)),
                (
                    "reference",
                    models.CharField(default=journal.models.new_reference, max_length=64, unique=True),
                ),
            ],
            options={"verbose_name_plural": "entries", "ordering": ("-id",)},
        ),
    ]
