"""Hands the planner to Ansible; everything that decides lives in planner/."""

import glob
import os
import re
import sys
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError
from jinja2 import Undefined

try:  # where a value was written down; not a public interface, so its absence is no error
    from ansible._internal._datatag._tags import Origin
except ImportError:
    Origin = None

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from planner import catalogue, cluster, errors, fleet, formats, schema, settings  # noqa: E402

NAMES = (*catalogue.BY_VARIABLE, "mysql_extra_settings", "mysql_fit", "mysql_profile")
READ_ALSO = ("ansible_host",)
FACTS = (
    "memtotal_mb",
    "processor_nproc",
    "processor_vcpus",
    "distribution",
    "distribution_release",
    "distribution_version",
    "distribution_major_version",
)
HIDDEN = "(hidden)"
VAULT = "its vault cannot be opened: there is no password for it, or a wrong one"


def mysql_settings(user, flavor, version, host=None, demand=None):
    """The parameters of one server; `user` is any mapping that has the explicit mysql_* variables."""
    if not isinstance(user, Mapping):
        raise AnsibleFilterError("mysql_settings wants a dictionary of mysql_* variables")
    own = {name: user[name] for name in NAMES if name in user}
    try:
        return settings.resolve(own, flavor, version, host, demand)
    except errors.PlanError as error:
        raise AnsibleFilterError(str(error)) from None


def dynamic(value):
    """Has it a template in it somewhere?"""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(dynamic(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(dynamic(item) for item in value)
    return False


def settled(value):
    """The templated value throughout; LookupError where a part of it is not defined (yet)."""
    if isinstance(value, Undefined):
        raise LookupError(getattr(value, "_undefined_message", None) or "not defined")
    if isinstance(value, Mapping):
        return {key: settled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [settled(item) for item in value]
    return value


def secret(name, value):
    """It is never shown: what is judged is its name, and whether it can be read and is one line."""
    return any(word in name for word in errors.SECRET_WORDS) or type(value).__name__.startswith(
        ("Encrypted", "Ansible")
    )


def sealed(value):
    """Is a part of it vault-encrypted?"""
    if isinstance(value, Mapping):
        return any(sealed(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(sealed(item) for item in value)
    return type(value).__name__.startswith(("Encrypted", "AnsibleVault"))


def opened(value):
    """The value with all its texts decrypted."""
    if isinstance(value, Mapping):
        return {key: opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [opened(item) for item in value]
    return str(settled(value))


def reason_of(error):
    """What the first cause says, on one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if re.search(r"no vault secrets|vault exception|decrypt", text, re.IGNORECASE):
        return VAULT
    text = text.removeprefix("A captured exception marker was tripped: ")
    return text if len(text) <= 160 else text[:157] + "..."


class Inventory:
    """Reads hostvars without templating what needs none: a thousand hosts in seconds."""

    def __init__(self, hostvars, prefixes):
        self.hostvars, self.prefixes = hostvars, tuple(prefixes)
        self.raw, self.warnings, self.errors = {}, [], []
        self.read = set()

    def host(self, name):
        reader = getattr(self.hostvars, "raw_get", None)
        raw = reader(name) if reader else self.hostvars.get(name, {})
        if not isinstance(raw, Mapping):
            return {}
        self.raw[name] = raw
        own = {}
        for variable, value in raw.items():
            if variable.startswith(self.prefixes) or variable in READ_ALSO:
                if secret(variable, value):
                    own[variable] = HIDDEN
                    self.open(name, variable, value)
                elif not dynamic(value):
                    own[variable] = value
                    if sealed(value):
                        self.open(name, variable, value)
                else:
                    self.template(name, variable, own)
        facts = raw.get("ansible_facts") or {}
        own["ansible_facts"] = {key: facts[key] for key in FACTS if key in facts}
        return own

    def open(self, name, variable, value):
        """A secret that nobody can read stops the run here, not half-way on a host. Once for each value."""
        if (variable, id(value)) in self.read:
            return
        self.read.add((variable, id(value)))
        wrong = None
        try:
            plain = not (sealed(value) or dynamic(value))
            formats.check(variable, value if plain else opened(self.hostvars[name][variable]))
        except formats.FormatError as error:
            wrong = str(error), f"{error.mend} (echo adds a line break, printf adds none)"
        except Exception as error:  # Ansible's kinds differ between its versions
            reason = reason_of(error)
            if reason == VAULT:
                wrong = reason, "--vault-password-file, --ask-vault-pass or ANSIBLE_VAULT_PASSWORD_FILE"
            elif self.raw[name].get("ansible_facts"):  # before them it may mean: not known yet
                wrong = f"cannot be computed ({reason})", f"correct {variable}"
        if wrong:
            self.errors.append(errors.problem(name, variable, HIDDEN, *wrong))

    def template(self, name, variable, own):
        try:
            own[variable] = settled(self.hostvars[name][variable])
        except Exception as error:  # templates fail in many ways; before the facts it means: not known yet
            reason = reason_of(error)[:100]
            if self.raw[name].get("ansible_facts"):
                self.errors.append(
                    errors.problem(
                        name,
                        variable,
                        self.raw[name][variable],
                        f"cannot be computed ({reason}), so what it adds to the sums is not known",
                        f"give {variable} a value, or a template of this host's own variables and facts",
                    )
                )
            else:
                self.warnings.append(
                    f"{name}: {variable} cannot be computed yet and was not checked ({reason})"
                )

    def origin(self, name, variable):
        """'group_vars/app.yml:3' and the like, where Ansible remembers it."""
        value = self.raw.get(name, {}).get(variable)
        tag = Origin.get_tag(value) if Origin else None
        if tag is None:
            return None
        path = getattr(tag, "path", None)
        if not path:
            return "command line" if "CLI" in str(tag) else str(getattr(tag, "description", "") or tag)
        kind = "group" if "/group_vars/" in path else "host" if "/host_vars/" in path else "inventory"
        line = getattr(tag, "line_num", None)
        return f"{kind}: {os.path.relpath(path)}" + (f":{line}" if line else "")


def found(path):
    """Where Ansible's lookups would find such a file or folder; False for nowhere."""
    path = os.path.expanduser(path)
    places = (
        "",
        "files",
        "templates",
        "playbooks",
        "playbooks/files",
        "playbooks/templates",
        "roles/*/files",
    )
    candidates = (
        candidate
        for place in places
        for candidate in glob.glob(os.path.join(glob.escape(ROOT), place, glob.escape(path)))
    )
    return next((one for one in (path, *candidates) if os.path.exists(one)), False)


def fleet_plan(hostvars, database, application, web=(), defaults=None):
    """The plan of the whole fleet (planner.fleet.plan) from hostvars and three lists of hosts."""
    checker = schema.Checker(found=found)
    inventory = Inventory(hostvars, (*schema.PREFIXES, *checker.covered))
    groups = {"database": list(database), "application": list(application), "web": list(web)}
    names = dict.fromkeys(name for group in groups.values() for name in group)
    hosts = {str(name): inventory.host(name) for name in names}
    return fleet.plan(
        hosts, groups, defaults, inventory.origin, checker, inventory.warnings, inventory.errors
    )


class FilterModule:
    def filters(self):
        return {
            "fleet_plan": fleet_plan,
            "mysql_settings": mysql_settings,
            "cluster_decision": cluster.decide,
            "cluster_recovery": cluster.recover,
        }
