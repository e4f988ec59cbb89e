"""What sampled texts are worth, told from the texts themselves."""

import json
from pathlib import Path

import pytest

from profiler.tinymath.task import HELD_OUT_SEED, POOL_SEED, questions
from profiler.tinymath.texts_figures import figures
from profiler.tinymath.traces import RECHECK

ASKED = questions(1, POOL_SEED)[0]


def text(*results: int) -> str:
    """Passes that came to these results; the answer is the last one's."""
    passes = RECHECK.join(f"Compute:\n1 + 1 = 2\n2 * 1 = {result}\n" for result in results)
    return f"\n{passes}\nThe answer is \\boxed{{{results[-1]}}}."


def told(path: Path, question: str, texts: list[str]) -> Path:
    samples = [[one, 10, "stop"] for one in texts]
    path.write_text(json.dumps({"question": question, "greedy": [texts[0], 10, "stop"], "samples": samples}) + "\n")
    return path


def test_what_a_re_check_mended_and_broke(tmp_path: Path) -> None:
    right, wrong = ASKED.answer, ASKED.answer + 1
    texts = [text(right), text(wrong), text(wrong, right), text(wrong, wrong), text(right, right), text(right, wrong)]

    found = figures(told(tmp_path / "s.texts.jsonl", ASKED.question, texts))

    assert found["pass@1"] == 0.5 and found["greedy"] == 1.0
    assert found["re-checked"] == pytest.approx(4 / 6, abs=1e-3)
    assert (found["first pass right"], found["answer right"]) == (0.5, 0.5)
    assert (found["mended"], found["broken"]) == (0.5, 0.5)


def test_held_out_questions_are_known_and_others_are_not(tmp_path: Path) -> None:
    held_out = questions(1, HELD_OUT_SEED)[0]
    assert figures(told(tmp_path / "a", held_out.question, [text(held_out.answer)]))["pass@1"] == 1.0
    with pytest.raises(KeyError):
        figures(told(tmp_path / "b", "What is love?", [text(1)]))
