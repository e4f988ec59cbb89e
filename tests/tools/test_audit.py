"""What the audit by a list finds in a lock file."""

import json
from pathlib import Path

import audit
import pytest

LOCK = """\
# a comment: jinja2==2.0
Jinja2==3.1.4 \\
    --hash=sha256:00
uvicorn[standard]==0.30.0 ; python_version > "3"
torch==2.0.0+cpu
typing_extensions==4.1rc1
"""


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"jinja2": ["<2.11", "<3.1.5"]}, ["Jinja2 3.1.4 is vulnerable (<3.1.5)"]),
        ({"jinja2": ["<3.1.4"], "flask": ["<99"]}, []),
        ({"uvicorn": ["<0.11", ">=0.30,<0.31"]}, ["uvicorn 0.30.0 is vulnerable (>=0.30,<0.31)"]),
        ({"torch": ["==2.0.0"]}, ["torch 2.0.0+cpu is vulnerable (==2.0.0)"]),
        ({"typing-extensions": ["<4.2"]}, ["typing_extensions 4.1rc1 is vulnerable (<4.2)"]),
    ],
)
def test_pinned_versions_are_looked_up_by_canonical_name(known: dict[str, list[str]], found: list[str]) -> None:
    assert list(audit.vulnerable(LOCK, known)) == found


def test_every_pinned_package_of_the_locks_is_seen() -> None:
    for lock in audit.LOCKS:
        text = (audit.ROOT / lock).read_text()
        assert len(audit._PINNED.findall(text)) == sum("==" in line.partition("#")[0] for line in text.splitlines())


def test_a_list_that_knows_nothing_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"flask": ["<0.1"]}))
    with pytest.raises(SystemExit, match="no list of vulnerable versions"):
        audit._by_list(path)
