"""Runs Django's runtests.py, after switching the pool on where CONFORMANCE_SWITCH says "apps"."""

import os
import runpy
import sys
from pathlib import Path

import django

if os.environ["CONFORMANCE_SWITCH"] == "apps":
    # runtests.py makes its own INSTALLED_APPS; this is what being among them does
    setup = django.setup

    def setup_with_pool(*args, **kwargs):
        from djorm_pool.apps import enable

        enable()
        setup(*args, **kwargs)

    django.setup = setup_with_pool

script = Path.cwd() / "runtests.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
