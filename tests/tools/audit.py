"""`make audit`: known vulnerabilities of the locked dependencies. What could not be checked is said, never passed over.

Exit status 1 where one is found. Where no advisory source can be reached: 0 with a warning, or 2 with `--required`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements/proxy.lock", "requirements/dev.lock")
SOURCES = ("osv", "pypi")
LIMIT_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail where it could not be checked")
    args = parser.parse_args()
    found, unchecked = False, list[str]()
    for lock in LOCKS:
        verdict = _audited(lock)
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


def _audited(lock: str) -> str | None:
    """What was found, empty where nothing was; None where no source answered."""
    for source in SOURCES:
        command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / lock), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", source, "--progress-spinner", "off", "--timeout", "10"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return ""
        if "known vulnerabilit" in done.stderr + done.stdout:
            return done.stdout
    return None


if __name__ == "__main__":
    main()
