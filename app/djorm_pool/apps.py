"""The INSTALLED_APPS switch."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_finished, request_started
from django.db import DEFAULT_DB_ALIAS
from django.db.utils import load_backend
from django.test.signals import setting_changed

from . import checks, conf, registry, release

_VENDORS = {"mysql": "mysql", "postgresql": "postgresql", "sqlite": "sqlite"}


def connect_signals() -> None:
    """Signals and system checks. Idempotent: both switches call it."""
    request_started.connect(release.request_started, dispatch_uid="djorm_pool.started")
    request_finished.connect(release.request_finished, dispatch_uid="djorm_pool.finished")
    setting_changed.connect(registry.settings_changed, dispatch_uid="djorm_pool.settings")
    checks.register_all()


class DjormPoolConfig(AppConfig):
    """Grafts the pool onto the backends that DATABASES names, before any app's ready() can connect."""

    name = "djorm_pool"
    verbose_name = "Connection pool"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        enable()


def enable() -> None:
    """Check the settings and pool every alias whose backend we know. Raises ImproperlyConfigured."""
    from . import _patch

    conf.build(conf.global_options(), conf.SETTING)
    connect_signals()
    databases = settings.DATABASES or {}
    for alias, database in databases.items():
        engine = database.get("ENGINE") or ""
        if not engine or engine == "django.db.backends.dummy":
            continue
        backend = load_backend(engine)  # Django's own message where the driver is missing
        vendor = getattr(backend.DatabaseWrapper, "vendor", None)
        if vendor in _VENDORS:
            _patch(vendor)
        elif alias == DEFAULT_DB_ALIAS:
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['ENGINE'] is {engine!r} ({vendor}): djorm_pool pools mysql, "
                f"postgresql and "
                "sqlite. Take 'djorm_pool' out of INSTALLED_APPS."
            )
