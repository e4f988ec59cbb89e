"""The command line. Each command is a file; it imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import importlib
import sys

import click

_COMMANDS = {
    "demo": "Start real engines with the built-in tiny reasoner, profile them, answer a question, show how to call.",
    "serve": "Serve the proxy over a fleet.",
    "up": "Start the engines that a configuration describes, and stop them together.",
    "profile": "Measure each backend and fit its latency.",
    "quality": "Sample a labelled task and derive the accuracy of every strategy.",
    "measure": "Ask labelled questions of strategies; print a table, and keep the runs for the quality table.",
    "plan": "Show the ranked candidates for a request; send nothing.",
    "report": "Show what to run within a deadline, and what the usual advice would have cost.",
    "loadtest": "Send an open-loop workload with a mix of SLOs; report attainment, goodput, accuracy and cost.",
    "slo-table": "Ask a running proxy labelled questions under several deadlines; print a table.",
    "simulate": "Serve a simulated fleet that speaks vLLM's HTTP, timed by profiles.",
    "traces": "Read the trace store.",
    "keys": "Make API keys for clients; what is stored is their hash.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"proxy.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy)
@click.version_option(package_name="paretoproxy")
def cli() -> None:
    """OpenAI-compatible proxy that runs test-time scaling under a request's SLO."""


def main() -> None:
    """Exit status 0, or a one-line error that says what to change."""
    from profiler.fit import FitError
    from profiler.loadtest import LoadTestError
    from profiler.measure import EngineShared
    from profiler.profile_file import ProfileError
    from profiler.quality_file import QualityError
    from profiler.report import ReportError
    from profiler.simulation.server import ServerError
    from profiler.tasks import TaskError
    from profiler.verdict import AgreementError
    from proxy.bench import EngineFailed
    from proxy.config import ConfigError
    from proxy.launch import LaunchError
    from proxy.load_metrics import MetricMissing
    from proxy.trace_store import StoreError

    fleet = (ConfigError, LaunchError, StoreError, EngineFailed, EngineShared, MetricMissing, ServerError)
    known = (*fleet, FitError, ProfileError, QualityError, TaskError, AgreementError, ReportError, LoadTestError)
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except known as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except BaseExceptionGroup as group:
        errors = [error for error in group.exceptions if isinstance(error, known)]
        if len(errors) < len(group.exceptions):
            raise
        click.echo(f"error: {errors[0]}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
