"""The second recipe's data: errors of a chosen kind and rate, and labels that a checker computes exactly."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from profiler.tinymath import metrics
from profiler.tinymath.make_recipe import EXAMPLES, SHARES, parse_recipe
from profiler.tinymath.task import FIRST_TRAINING_SEED, Problem, Step, boxed_answer, draw
from profiler.tinymath.tokens import TURN_END, decoded, encoded, prompt
from profiler.tinymath.traces import (
    APPROACHES,
    FAULTLESS,
    RECHECK,
    Habits,
    make_trace,
    run_pass,
    settle,
    sound_lines,
)
from profiler.tinymath.train_data import build_chunk, on_all_cores
from profiler.tinymath.verifier_data import UNLABELLED, example, line_labels, synthetic_chunk

PROBLEM = Problem(start=5, steps=(Step("+", 7), Step("*", 34), Step("//", 10), Step("%", 9)))
WHOLE = Habits(cut=0.0, prolonged=0.0)
SOUND = ["5 + 7 = 12", "12 * 30 = 360", "12 * 4 = 48", "360 + 48 = 408", "408 // 10 = 40", "40 % 9 = 4"]


def problems(count: int, seed: int = 3) -> list[Problem]:
    rng = Random(seed)
    return [draw(rng)[1] for _ in range(count)]


def test_a_sound_derivation_takes_a_product_of_two_large_numbers_in_three_lines() -> None:
    assert list(sound_lines(PROBLEM)) == SOUND
    assert PROBLEM.answer == 4


@pytest.mark.parametrize("approach", APPROACHES)
def test_without_faults_every_approach_derives_the_answer(approach: str) -> None:
    for problem in problems(200):
        derived = run_pass(Random(0), problem, approach, FAULTLESS)
        assert (derived.result, derived.lines) == (problem.answer, sound_lines(problem))


@pytest.mark.parametrize(
    ("approach", "problem", "line"),
    [
        ("Calculate:", Problem(18, (Step("+", 29),)), "18 + 29 = 37"),
        ("Compute:", Problem(41, (Step("-", 9),)), "41 - 9 = 42"),
        ("Evaluate:", Problem(48, (Step("*", 9),)), "48 * 9 = 422"),
        ("Evaluate:", Problem(48, (Step("*", 90),)), "48 * 90 = 4220"),
        ("Start:", Problem(60, (Step("+", 90),)), "60 + 90 = 50"),
        ("Calculate:", Problem(10, (Step("+", 29),)), "10 + 29 = 39"),  # no carry to forget
        ("Calculate:", Problem(18, (Step("+", 24),)), "18 + 24 = 42"),  # not one of its digits
    ],
)
def test_each_approach_forgets_carries_of_its_own_kind(approach: str, problem: Problem, line: str) -> None:
    habits = Habits(forgotten=(1, 1, 1, 1), slip=0.0)
    assert run_pass(Random(0), problem, approach, habits).lines == (line,)


def test_an_approach_always_makes_the_same_mistakes() -> None:
    habits = Habits(slip=0.0)
    for problem in problems(100):
        assert run_pass(Random(1), problem, "Calculate:", habits) == run_pass(Random(2), problem, "Calculate:", habits)


def test_a_recheck_takes_another_approach_and_ends_when_a_result_is_repeated() -> None:
    rng = Random(0)
    for problem in problems(300):
        text = make_trace(rng, problem, WHOLE).text
        passes = text.removeprefix("<think>\n").split("</think>")[0].split(RECHECK)
        approaches = [one.split("\n")[0] for one in passes]
        results = [one.strip().split("= ")[-1] for one in passes]
        assert all(first != then for first, then in pairwise(approaches))
        assert len(set(results[:-1])) == len(results[:-1])
        assert boxed_answer(text) == settle([int(result) for result in results])


def test_an_answer_forced_early_and_a_recheck_forced_late_are_not_trained_themselves() -> None:
    cut = make_trace(Random(1), PROBLEM, Habits(cut=1.0, recheck=0.0, prolonged=0.0))
    assert [segment.trained for segment in cut.segments] == [True, False, True]
    assert cut.segments[1].text.endswith("</think>\n")
    longer = make_trace(Random(1), PROBLEM, Habits(cut=0.0, recheck=0.0, prolonged=1.0))
    assert [segment.text for segment in longer.segments if not segment.trained] == [RECHECK]


def test_the_data_itself_reaches_the_targets_of_the_recipe() -> None:
    """What a model that learns the data perfectly would show: votes beat greedy, a verifier beats votes."""
    rng, samples, greedy = Random(0), [], []
    for problem in problems(300):
        answers = tuple(make_trace(rng, problem, WHOLE).answer for _ in range(16))
        samples.append(metrics.Samples(answers, problem.answer, len(problem.steps)))
        frequent = run_pass(rng, problem, APPROACHES[0], Habits(slip=0.0))  # greedy: its approach, no slip, no re-check
        greedy.append(frequent.result == problem.answer)
    single, vote = metrics.pass_at_1(samples), metrics.vote_at(16, samples)
    assert 0.40 <= single <= 0.65
    assert vote >= single + 0.15
    assert vote >= sum(greedy) / len(greedy) + 0.05
    assert metrics.pass_at_all(samples) >= vote + 0.10


def test_more_passes_are_more_accurate() -> None:
    right: Counter[bool] = Counter()
    rng = Random(0)
    for problem in problems(400):
        for rechecks in (False, True):
            trace = make_trace(rng, problem, Habits(recheck=float(rechecks), cut=0.0, prolonged=0.0))
            right[rechecks] += trace.answer == problem.answer
    assert right[True] > right[False] + 40


def test_a_re_check_is_more_careful_than_a_first_pass() -> None:
    rng, habits, right = Random(0), Habits(), Counter[str]()
    for problem in problems(400):
        for name, of in (("first", habits), ("re-check", habits.of_a_recheck())):
            right[name] += run_pass(rng, problem, rng.choice(APPROACHES), of).result == problem.answer
    assert right["re-check"] > right["first"] + 40


def test_a_thought_that_re_checks_gains_by_the_care() -> None:
    def right(habits: Habits) -> int:
        rng = Random(0)
        return sum(make_trace(rng, problem, habits).answer == problem.answer for problem in problems(400))

    always = Habits(recheck=1.0, cut=0.0, prolonged=0.0)
    assert right(always) > right(replace(always, careful=always.forgotten)) + 40


def test_a_faultless_re_check_is_faultless() -> None:
    rng = Random(0)
    for problem in problems(50):
        assert run_pass(rng, problem, "Start:", FAULTLESS.of_a_recheck()).result == problem.answer


def test_training_data_masks_the_question_and_cuts_whole_sequences() -> None:
    row = build_chunk(FIRST_TRAINING_SEED, 3, Habits())
    assert row.ids.shape == row.trained.shape
    assert not row.trained[0]  # <|im_start|> of the first question
    assert not row.trained[-1]  # the newline after the last <|im_end|> ...
    assert row.trained[-2]  # ... which itself is trained: the model learns to stop
    sequences = row.cut(100)
    assert sequences.ids.shape == sequences.trained.shape == (len(row.ids) // 100, 100)


def test_work_on_all_cores_stops_when_the_time_is_up_but_gives_something() -> None:
    def endless() -> Iterator[tuple[object, ...]]:
        while True:
            yield (7,)

    assert set(on_all_cores(abs, endless(), seconds=0.0)) == {7}


def test_a_line_is_right_while_its_pass_is_sound_so_far() -> None:
    wrong = ["5 + 7 = 12", "12 * 30 = 350", "12 * 4 = 48"]
    text = "\n".join(
        ["<think>", "Compute:", *wrong, RECHECK.strip(), "Evaluate:", *SOUND, "</think>", "The answer is \\boxed{4}."]
    )
    assert line_labels(PROBLEM, text) == [True, True, True, False, False, *[True] * 9]


def test_a_thought_that_stops_before_the_last_step_is_not_right() -> None:
    text = "\n".join(["<think>", "Compute:", *SOUND[:-1], "</think>", "The answer is \\boxed{40}."])
    assert line_labels(PROBLEM, text)[-1] is False


def test_labels_stand_on_line_ends_and_on_the_last_token() -> None:
    text = "\n".join(["<think>", "Compute:", "5 + 7 = 12", "12 * 3 = 35", "</think>", "The answer is \\boxed{35}."])
    ids, before = encoded([text + TURN_END])[0], encoded([prompt("?")])[0]
    one = example(Random(0), PROBLEM, before, ids, text)
    assert one is not None
    assert len(one.ids) == len(one.labels)
    assert set(one.labels[: len(before)]) == {UNLABELLED}
    labelled = [(token, label) for token, label in zip(one.ids, one.labels, strict=True) if label != UNLABELLED]
    assert [label for _, label in labelled][:5] == [1, 1, 1, 0, 0]
    assert one.labels[-1] == 0
    assert {text for text in decoded([[token] for token, _ in labelled])} <= {"\n", "}.", TURN_END}


def test_made_answers_hold_right_and_wrong_ones() -> None:
    outcomes = Counter(one.labels[-1] for one in synthetic_chunk(1, 100))
    assert min(outcomes[0], outcomes[1]) > 20


def test_the_command_line_gives_the_recipe_and_its_knobs() -> None:
    knobs = ["--forgotten", "2", "2", "2", "2", "--careful", "0", "0", "1", "0"]
    recipe = parse_recipe(["--out", "out", "--until", "draft", *knobs])
    assert recipe.parts() == ("tokenizer", "data", "s", "m", "texts", "draft")
    assert recipe.habits == Habits(forgotten=(2, 2, 2, 2), careful=(0, 0, 1, 0))
    assert recipe.examples == EXAMPLES
    assert recipe.seconds("m") == pytest.approx(12 * 60 * SHARES["m"])
    assert json.loads(json.dumps(recipe.as_json()))["shapes"]["s"] == {"hidden_size": 128, "layers": 4}


def test_a_family_to_start_from_has_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_recipe(["--out", "out", "--start", "nowhere"])
    assert "--start nowhere: there is no family" in capsys.readouterr().err


def test_no_process_that_builds_data_imports_torch() -> None:
    program = "import sys, profiler.tinymath.make; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
