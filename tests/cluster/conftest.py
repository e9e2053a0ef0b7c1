"""The hosts that CLUSTER_INVENTORY names."""

import pytest
from nodes import groups


@pytest.fixture(scope="session")
def cluster():
    return groups()
