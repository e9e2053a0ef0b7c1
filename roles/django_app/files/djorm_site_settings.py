"""The project's own settings with this deployment laid over them; their code stays as it is.

Database, pool, hosts, keys and the static folder come from the environment file of the service; everything
else is what the project says in the module that DJANGO_PROJECT_SETTINGS names.
"""

import os
from importlib import import_module, util

import djorm_site_environment as _environment

_project = import_module(os.environ["DJANGO_PROJECT_SETTINGS"])
globals().update({name: getattr(_project, name) for name in dir(_project) if name.isupper()})

DEBUG = _environment.flag("DJANGO_DEBUG", False)
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or _project.SECRET_KEY
if os.environ.get("DJANGO_ALLOWED_HOSTS"):
    ALLOWED_HOSTS = _environment.words("DJANGO_ALLOWED_HOSTS")
if os.environ.get("DJANGO_CSRF_TRUSTED_ORIGINS"):
    CSRF_TRUSTED_ORIGINS = _environment.words("DJANGO_CSRF_TRUSTED_ORIGINS")
# Our reverse proxy always sets this header itself, so a client cannot.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

DATABASES = _environment.databases(over=getattr(_project, "DATABASES", {}))
DATABASE_ROUTERS = _environment.routers(getattr(_project, "DATABASE_ROUTERS", ()))
DJORM_POOL_OPTIONS = _environment.pool_options()
DJORM_POOL_PESSIMISTIC = _environment.pool_pessimistic()

INSTALLED_APPS = list(_project.INSTALLED_APPS)
if not any(app.split(".")[0] == "djorm_pool" for app in INSTALLED_APPS):
    INSTALLED_APPS.insert(0, "djorm_pool")

MIDDLEWARE = list(getattr(_project, "MIDDLEWARE", []))
# The reference site brings its own `status`; other projects get a copy under a name that is not theirs.
_status = "djorm_status" if util.find_spec("djorm_status") else "status"
if not any(name.endswith(".StatusMiddleware") for name in MIDDLEWARE):
    MIDDLEWARE.insert(0, f"{_status}.middleware.StatusMiddleware")

if os.environ.get("DJANGO_STATIC_ROOT"):
    STATIC_ROOT = os.environ["DJANGO_STATIC_ROOT"]
    # For a reverse proxy on another host, which cannot read our files; one on this host serves them itself.
    MIDDLEWARE.insert(1, f"{_status}.static.CollectedStatic")
if os.environ.get("DJANGO_MEDIA_ROOT"):
    MEDIA_ROOT = os.environ["DJANGO_MEDIA_ROOT"]
