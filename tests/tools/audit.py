"""`make audit`: known vulnerabilities of the locked dependencies. What could not be checked is said, never passed over.

Exit status 1 where one is found. Where no advisory source can be reached: 0 with a warning, or 2 with `--required`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements/proxy.lock", "requirements/dev.lock")
SOURCES = ("osv", "pypi")
LIMIT_S = 60
# Known to be vulnerable: a source that finds nothing in it (a mirror, say, that leaves advisories out) tells nothing.
CANARY = "jinja2==2.10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail where it could not be checked")
    args = parser.parse_args()
    found, unchecked = False, list[str]()
    source = next((source for source in SOURCES if _knows_canary(source)), None)
    for lock in LOCKS:
        verdict = _audited(ROOT / lock, source) if source is not None else None
        if verdict is None:
            unchecked.append(lock)
        elif verdict:
            found = True
            print(f"audit: {lock}\n{verdict}", flush=True)
        else:
            print(f"audit: {lock}: no known vulnerability")
    for lock in unchecked:
        print(f"audit: WARNING: {lock} was NOT checked: no advisory source could be reached from here", file=sys.stderr)
    sys.exit(1 if found else 2 if unchecked and args.required else 0)


def _knows_canary(source: str) -> bool:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "canary.txt"
        path.write_text(CANARY + "\n")
        return bool(_audited(path, source))


def _audited(lock: Path, source: str) -> str | None:
    """What was found, empty where nothing was; None where the source did not answer."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", source, "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return ""
    return done.stdout if "known vulnerabilit" in done.stderr + done.stdout else None


if __name__ == "__main__":
    main()
