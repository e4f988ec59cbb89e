"""OpenTelemetry: spans and metrics to a collector, from what is recorded anyway. Importing this package imports none of
OpenTelemetry; starting it does.
"""

from proxy.telemetry.export import Telemetry, check

__all__ = ["Telemetry", "check"]
