"""Whether a backend agrees with its model's quality table, as stored beside its profile: `NAME.agreement.json`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from profiler import files

if TYPE_CHECKING:
    from profiler.agree import Standing

SCHEMA = 1
SamplingSetting = Literal["sampled", "greedy"]
Said = Literal["agrees", "differs", "undecided"]


class AgreementError(ValueError):
    """An agreement file that cannot be used; the message names the file and what to do."""


class Verdict(msgspec.Struct, frozen=True):
    """Of one setting. `difference`: where the accuracy less the table's is, at 95% confidence.

    `length_ratio`: mean over questions of the completion tokens over the table's; `date`: ISO 8601.
    """

    setting: SamplingSetting
    verdict: Said
    questions: int
    accuracy: float
    expected_accuracy: float
    difference: tuple[float, float]
    length_ratio: float
    reason: str
    date: str

    @classmethod
    def of(cls, setting: SamplingSetting, standing: Standing, day: datetime.date) -> Verdict:
        low, high = standing.difference
        return cls(
            setting=setting,
            verdict=standing.verdict,
            questions=standing.questions,
            accuracy=round(standing.accuracy, 4),
            expected_accuracy=round(standing.expected_accuracy, 4),
            difference=(round(low, 4), round(high, 4)),
            length_ratio=round(standing.length_ratio, 4),
            reason=standing.reason,
            date=day.isoformat(),
        )


class Agreement(msgspec.Struct, frozen=True):
    """All verdicts on one backend."""

    backend: str
    model: str
    task: str
    verdicts: list[Verdict]
    schema: int = SCHEMA

    @property
    def differing(self) -> frozenset[SamplingSetting]:
        """The settings in which the backend must not be trusted with the model's table."""
        return frozenset(verdict.setting for verdict in self.verdicts if verdict.verdict == "differs")


def agreement_path(profile: Path) -> Path:
    return profile.with_name(f"{profile.stem}.agreement.json")


def read(path: Path) -> Agreement | None:
    """None where there is no such file. Raises AgreementError."""
    try:
        agreement = msgspec.json.decode(path.read_bytes(), type=Agreement)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AgreementError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AgreementError(f"{path} does not tell agreement ({error}); run `paretoproxy profile --check`") from error
    if agreement.schema != SCHEMA:
        raise AgreementError(
            f"{path} has schema {agreement.schema}, this version reads {SCHEMA}; run `paretoproxy profile --check`"
        )
    return agreement


def write(agreement: Agreement, path: Path) -> None:
    files.replace(path, msgspec.json.format(msgspec.json.encode(agreement), indent=1) + b"\n")
