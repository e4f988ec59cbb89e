"""A strategy from another package: the example is installed as its users would, and found through its entry point."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples/strategy-plugin"
MOST_LINES = 40


def test_an_installed_package_adds_its_strategy(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PLUGIN, source)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True, timeout=120)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import asyncio\n"
        "from strategies.registry import Registry\n"
        "from strategies.testing import ScriptedSampler, finishes\n"
        "strategy = Registry.installed().build('median-vote', {'n': 3})\n"
        "sampler = ScriptedSampler([finishes('7', 10), finishes('90', 20), finishes('8', 30)])\n"
        "print(asyncio.run(strategy.run(sampler)).answer, sampler.decided_at_s)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "8 30.0", found.stderr


def test_it_is_as_short_as_the_documents_say() -> None:
    source = (PLUGIN / "median_vote.py").read_text()
    assert len(source.splitlines()) < MOST_LINES
    assert source in (ROOT / "docs/strategies.md").read_text()
