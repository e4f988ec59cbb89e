"""`make audit`: known vulnerabilities of the locked dependencies. What could not be checked is said, never passed over.

    make audit                            # asks OSV or PyPI
    make audit ARGS="--list FILE"         # looks into a list that somebody brought along, where neither is in reach

Exit status 1 where one is found. Where no advisory source can be reached: 0 with a warning, or 2 with `--required`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements/proxy.lock", "requirements/image.lock", "requirements/dev.lock", "requirements/engine-cpu.lock")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", re.MULTILINE)
SOURCES = ("osv", "pypi")
LIMIT_S = 60
# Known to be vulnerable: a source that finds nothing in it (a mirror, say, that leaves advisories out) tells nothing.
CANARY = "jinja2==2.10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail where it could not be checked")
    parser.add_argument(
        "--list",
        type=Path,
        help='JSON: {"package": ["<1.2", …], …} of vulnerable versions, as Safety DB\'s insecure.json',
    )
    args = parser.parse_args()
    if args.list is not None:
        sys.exit(_by_list(args.list))
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


def _by_list(path: Path) -> int:
    told = json.loads(path.read_bytes())
    stamp = told.pop("$meta", {}).get("timestamp")
    known = {canonicalize_name(name): specifiers for name, specifiers in told.items()}
    if not list(vulnerable(CANARY, known)):
        sys.exit(f"audit: {path} does not know that {CANARY} is vulnerable: it is no list of vulnerable versions")
    date = "" if stamp is None else f" of {datetime.datetime.fromtimestamp(stamp, datetime.UTC):%d %B %Y}"
    found = False
    for lock in LOCKS:
        text = (ROOT / lock).read_text()
        hits = list(vulnerable(text, known))
        found = found or bool(hits)
        told_hits = "; ".join(hits) or "no known vulnerability"
        print(f"audit: {lock}, {len(_PINNED.findall(text))} packages, by a list of {len(known)}{date}: {told_hits}")
    return int(found)


def vulnerable(lock: str, known: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each pinned version of the lock that a specifier of `known` (by canonical name) contains."""
    for name, version in _PINNED.findall(lock):
        for specifier in known.get(canonicalize_name(name), ()):
            if SpecifierSet(specifier).contains(version.partition("+")[0], prereleases=True):
                yield f"{name} {version} is vulnerable ({specifier})"


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
