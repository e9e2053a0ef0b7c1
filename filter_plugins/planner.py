"""Hands the planner to Ansible; everything that decides lives in planner/."""

import os
import sys
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from planner import catalogue, settings  # noqa: E402
from planner.errors import PlanError  # noqa: E402

NAMES = (*catalogue.BY_VARIABLE, "mysql_extra_settings", "mysql_fit", "mysql_profile")


def mysql_settings(user, flavor, version, host=None, demand=None):
    """The parameters of one server; `user` is any mapping that has the explicit mysql_* variables."""
    if not isinstance(user, Mapping):
        raise AnsibleFilterError("mysql_settings wants a dictionary of mysql_* variables")
    own = {name: user[name] for name in NAMES if name in user}
    try:
        return settings.resolve(own, flavor, version, host, demand)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    def filters(self):
        return {"mysql_settings": mysql_settings}
