"""The planner is imported from the repository's root."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

settings.register_profile(
    "fast",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "25")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    # The mutants only ask whether a test fails, not for the smallest example.
    phases=[Phase.generate] if os.environ.get("HYPOTHESIS_NO_SHRINK") else list(Phase),
)
settings.load_profile("fast")


@pytest.fixture(scope="session")
def root():
    return ROOT
