"""The load tester: arrivals that wait for nobody, judged request by request. Start at `workload`, `schedule`, `run`.

Nothing here sends HTTP: a `Caller` does, and the run loop uses the event loop's time only, so that the same code runs
in virtual time.
"""


class LoadTestError(ValueError):
    """A load test that cannot be run or reported; the message says what to change."""
