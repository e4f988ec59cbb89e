"""How hard the fuzz tests try: little in the suite, for as long as told under `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def examples(number: int) -> settings:
    """So many in the suite."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
    checks += [HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=number * TIMES, deadline=None, suppress_health_check=checks, derandomize=TIMES == 1, database=None
    )
