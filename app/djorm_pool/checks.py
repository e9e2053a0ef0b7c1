"""System checks: see djorm_pool.checks in docs/pool.md."""
