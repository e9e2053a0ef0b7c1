"""What two test modules share."""

from copy import deepcopy


def mended(hosts, plan):
    """The inventory with every mend that consists of setting variables."""
    hosts = deepcopy(hosts)
    for entry in plan["errors"]:
        for host in entry.get("on", ()):
            for variable, value in entry["set_to"].items():
                if value is None:
                    hosts[host].pop(variable, None)
                else:
                    hosts[host][variable] = value
    return hosts
