"""The built-in task: the same questions for ever, checkable answers, sets that do not overlap."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from profiler.tinymath import metrics
from profiler.tinymath.task import (
    EVALUATION_SEED,
    FIRST_TRAINING_SEED,
    HELD_OUT_SEED,
    POOL_SEED,
    TOKENIZER_SEED,
    Problem,
    Question,
    Step,
    boxed_answer,
    draw,
    grade,
    phrase,
    questions,
)
from profiler.tinymath.tokens import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    END_THINK_ID,
    PAD_ID,
    SHIPPED,
    THINK_ID,
    TURN_END,
    TURN_END_ID,
    bpe,
)
from profiler.tinymath.traces import Habits, make_trace

WEIGHTS = Path(__file__).parents[2] / "profiler" / "tinymath" / "weights"
PROBLEM = Problem(start=5, steps=(Step("+", 7), Step("*", 3), Step("//", 10), Step("%", 2)))


# The frozen values below come from the code that the shipped weights were trained with, not from this one.

FROZEN_QUESTIONS = [
    (31, Question("What is (62 + 52) + 55?", 169, 2)),
    (32, Question("Calculate ((29 + 91) // 17) + 6.", 13, 3)),
    (18, Question("Compute (((17 * 36) % 100) - 9) * 99.", 297, 4)),
    (21, Question("Evaluate (((55 * 9) // 17) * 5) // 2.", 72, 4)),
    (43, Question("Start with 38. Then multiply by 70, subtract 396. What is the result?", 2264, 2)),
    (
        309,
        Question("Start with 40. Then add 27, divide by 9 and drop the remainder, add 95. What is the result?", 102, 3),
    ),
    (
        91,
        Question(
            "Start with 77. Then add 89, multiply by 69, take the remainder modulo 1000. What is the result?", 454, 3
        ),
    ),
    (
        296,
        Question(
            "Eli has 34 stamps. Eli gives away 4, then has the number multiplied by 8, then shares all in 5 equal "
            "heaps and keeps one heap. How many stamps does Eli have?",
            48,
            3,
        ),
    ),
    (
        55,
        Question(
            "Hana has 27 shells. Hana gets 96 more, then gives away 12, then has the number multiplied by 56. "
            "How many shells does Hana have?",
            6216,
            3,
        ),
    ),
    (
        367,
        Question(
            "Gus has 69 pens. Gus has the number multiplied by 55, then packs boxes of 3 and keeps only the rest. "
            "How many pens does Gus have?",
            0,
            2,
        ),
    ),
]
FROZEN_SETS = [  # SHA-256 of the first 200 questions
    (EVALUATION_SEED, "a05c3e392c9213d6237728a8d3be5886d0dcd64cb35dd3b026c1f8b520a81b05"),
    (POOL_SEED, "b0847f93acf59141d6c2e26ed6fe153ad6af143f4624b3fe67ff53541c9507d9"),
    (HELD_OUT_SEED, "366c2fe155326c2b01f3c15b4b776f8a0bdf7655c3130b307c6258cfb2346e9c"),
    (FIRST_TRAINING_SEED, "9da8dcf97f98c437e4fa909d88a17f50796f5d2a4ed144aeb033961844e0c6a6"),
]


def sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@pytest.mark.parametrize(("seed", "question"), FROZEN_QUESTIONS)
def test_a_seed_gives_the_question_that_the_weights_were_trained_with(seed: int, question: Question) -> None:
    assert questions(1, seed) == [question]


@pytest.mark.parametrize(("seed", "digest"), FROZEN_SETS)
def test_a_seed_gives_the_whole_set_that_the_weights_were_trained_with(seed: int, digest: str) -> None:
    assert sha256([[q.question, q.answer, q.steps] for q in questions(200, seed)]) == digest


def test_a_larger_set_only_appends() -> None:
    assert questions(50, POOL_SEED)[:20] == questions(20, POOL_SEED)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        questions(-1, POOL_SEED)


def test_the_seeds_of_the_sets_differ_and_stay_below_those_of_training() -> None:
    seeds = [TOKENIZER_SEED, EVALUATION_SEED, POOL_SEED, HELD_OUT_SEED, FIRST_TRAINING_SEED]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) == FIRST_TRAINING_SEED


def test_pool_held_out_evaluation_and_training_questions_are_disjoint() -> None:
    chunks = [Random(FIRST_TRAINING_SEED + chunk) for chunk in range(3)]
    training = [draw_for_training(rng) for rng in chunks for _ in range(500)]
    product = [q.question for seed in (EVALUATION_SEED, POOL_SEED, HELD_OUT_SEED) for q in questions(1000, seed)]
    assert len(set(product)) == 3000
    assert set(product).isdisjoint(training)


def draw_for_training(rng: Random) -> str:
    question, problem = draw(rng)
    make_trace(rng, problem, Habits())  # training draws a trace between two questions
    return question.question


def test_a_question_becomes_a_task_row_with_its_difficulty_as_class() -> None:
    row = Question("What is (62 + 52) + 55?", 169, 2).as_task_row()
    assert row == {"question": "What is (62 + 52) + 55?", "answer": "169", "class": "steps-2"}


def test_difficulties_span_2_to_16_steps() -> None:
    assert {q.steps for q in questions(300, POOL_SEED)} == set(range(2, 17))


def test_a_problem_is_solved_step_by_step_in_integers() -> None:
    assert PROBLEM.answer == 1  # 5 + 7 = 12, * 3 = 36, // 10 = 3, % 2 = 1


def test_the_three_phrasings_say_the_same_problem() -> None:
    phrasings = {phrase(Random(seed), PROBLEM) for seed in range(40)}
    assert "Compute (((5 + 7) * 3) // 10) % 2." in phrasings
    assert (
        "Start with 5. Then add 7, multiply by 3, divide by 10 and drop the remainder, "
        "take the remainder modulo 2. What is the result?"
    ) in phrasings
    assert any(
        "gets 7 more, then has the number multiplied by 3, then shares all in 10 equal heaps and keeps one heap, "
        "then packs boxes of 2 and keeps only the rest." in text
        for text in phrasings
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"</think>The answer is \boxed{12}.", 12),
        (r"\boxed{11} no, \boxed{-3}", -3),
        ("The answer is 12.", None),
        (r"\boxed{12", None),
        (r"\boxed{" + "9" * 5000 + "}", None),
    ],
)
def test_the_last_boxed_integer_is_the_answer(text: str, answer: int | None) -> None:
    assert boxed_answer(text) == answer


def test_grading_compares_with_the_gold_answer() -> None:
    assert grade(r"\boxed{12}", 12)
    assert not grade(r"\boxed{12}", 13)
    assert not grade("no answer", 0)


def test_every_shipped_model_reads_the_same_tokens() -> None:
    """A draft or verifier with another tokenizer would be useless beside its policy."""
    shipped = json.loads(SHIPPED.read_text())
    for model in sorted(WEIGHTS.iterdir()):
        assert json.loads((model / "tokenizer.json").read_text())["model"] == shipped["model"]
        assert (model / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert [bpe().token_to_id(token) for token in (END_OF_TEXT, TURN_END, "<think>", "</think>")] == [
        PAD_ID,
        TURN_END_ID,
        THINK_ID,
        END_THINK_ID,
    ]


SAMPLED = [
    metrics.Samples(answers=(4, 4, 4, 5), gold=4, steps=2),  # the right answer is the mode
    metrics.Samples(answers=(8, 9, 9, None), gold=8, steps=2),  # right once
    metrics.Samples(answers=(None, None, None, None), gold=1, steps=3),
]


def test_pass_at_1_is_the_mean_accuracy_and_pass_at_all_counts_any_right_sample() -> None:
    assert metrics.pass_at_1(SAMPLED) == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    assert metrics.pass_at_all(SAMPLED) == pytest.approx(2 / 3)
    assert metrics.accuracy_by_steps(SAMPLED) == {2: pytest.approx(1 / 2), 3: 0.0}


def test_a_vote_over_all_samples_takes_the_mode() -> None:
    assert metrics.vote_at(4, SAMPLED) == pytest.approx(1 / 3)


def test_a_vote_over_one_sample_is_pass_at_1_up_to_chance() -> None:
    assert metrics.vote_at(1, SAMPLED * 30) == pytest.approx(metrics.pass_at_1(SAMPLED), abs=0.03)


def test_a_vote_needs_as_many_samples_as_it_counts() -> None:
    with pytest.raises(ValueError, match="larger than population"):
        metrics.vote_at(5, SAMPLED)


def test_importing_the_task_imports_nothing_heavy() -> None:
    program = "import sys, profiler.tasks; print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
