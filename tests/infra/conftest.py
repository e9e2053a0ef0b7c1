"""The proof on the running system: shared by every molecule scenario and by `make verify`."""

import declared as declared_state
import pytest


@pytest.fixture(scope="session")
def host(request):
    """A testinfra host, as root, for the inventory host that ``hosts_in`` names."""
    return declared_state.connect(request.param)


@pytest.fixture
def declared(request) -> dict:
    """What is declared of the test's host."""
    return declared_state.load()["hosts"][request.node.callspec.params["host"]]
