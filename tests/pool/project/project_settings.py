"""A small project whose databases and switches come from the environment."""

import json
import os

DATABASES = json.loads(os.environ["PROJECT_DATABASES"])
INSTALLED_APPS = json.loads(os.environ.get("PROJECT_APPS", '["djorm_pool", "shop"]'))
SECRET_KEY = "x" * 50
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "project_urls"
ALLOWED_HOSTS = ["*"]
DJORM_POOL_OPTIONS = json.loads(os.environ.get("PROJECT_POOL", '{"pool_size": 3, "max_overflow": 0}'))
if "PROJECT_PESSIMISTIC" in os.environ:
    DJORM_POOL_PESSIMISTIC = json.loads(os.environ["PROJECT_PESSIMISTIC"])
for _name, _value in json.loads(os.environ.get("PROJECT_SETTINGS", "{}")).items():
    globals()[_name] = _value
