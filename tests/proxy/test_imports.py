"""The architecture as tests: what importing the proxy costs, and which way the packages depend."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "transformers", "sympy", "vl_convert", "opentelemetry.sdk", "opentelemetry.exporter", "grpc")


def test_importing_the_proxy_imports_nothing_heavy() -> None:
    code = f"import sys, proxy, proxy.app, proxy.cli; print([name for name in {HEAVY} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def imported(file: Path) -> Iterator[str]:
    """The top packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"), [("strategies", {"proxy", "profiler", "fastapi", "httpx"}), ("profiler", {"proxy"})]
)
def test_dependencies_point_one_way(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    found = {str(file.relative_to(ROOT)): bad for file in files if (bad := forbidden & set(imported(file)))}

    assert files and found == {}
