"""The hosts that CLUSTER_INVENTORY names."""

import pytest
from nodes import Host, listed


@pytest.fixture(scope="session")
def cluster():
    found = listed()
    hosts = {name: Host(name, variables) for name, variables in found["_meta"]["hostvars"].items()}
    groups = {name: [hosts[host] for host in found[name]["hosts"]] for name in ("database", "web")}
    return groups
