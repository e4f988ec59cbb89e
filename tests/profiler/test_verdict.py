"""The agreement file: written whole, read back, and refused where it cannot be understood."""

import datetime
from pathlib import Path

import pytest

from profiler.agree import Standing
from profiler.verdict import Agreement, AgreementError, Verdict, agreement_path, read, write

WRONG = Standing("differs", 7, 0.04, 0.41, (-0.5, -0.2), 2.5, {"accuracy": 9.0, "lengths": 3.0}, "accuracy 0.04")
RIGHT = Standing("agrees", 60, 0.49, 0.49, (-0.1, 0.1), 1.0, {"accuracy": -1.0, "lengths": -1.0}, "no sign")
DAY = datetime.date(2026, 3, 1)
AGREEMENT = Agreement("a", "m", "math", [Verdict.of("sampled", WRONG, DAY), Verdict.of("greedy", RIGHT, DAY)])


def test_it_is_read_back_as_written(tmp_path: Path) -> None:
    path = agreement_path(tmp_path / "profiles/a.v2.json")
    write(AGREEMENT, path)
    assert read(path) == AGREEMENT
    assert [file.name for file in path.parent.iterdir()] == ["a.v2.agreement.json"]
    assert AGREEMENT.differing == {"sampled"}
    assert AGREEMENT.verdicts[0].date == "2026-03-01"


def test_none_where_no_check_was_made(tmp_path: Path) -> None:
    assert read(tmp_path / "a.agreement.json") is None


@pytest.mark.parametrize(
    "content", ["{", '{"backend": "a"}', '{"backend":"a","model":"m","task":"t","verdicts":[],"schema":9}']
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.agreement.json"
    path.write_text(content)
    with pytest.raises(AgreementError, match=r"a\.agreement\.json.*profile --check"):
        read(path)
