"""Labelled tasks: what a task file may hold, what is built in, and what an error says."""

from pathlib import Path

import pytest

from profiler.tasks import Task, TaskError, TaskQuestion, load_task
from profiler.tinymath.task import HELD_OUT_SEED, POOL_SEED, questions


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    return tmp_path / "sums.jsonl"


def question(**keys: str) -> TaskQuestion:
    return TaskQuestion.model_validate(keys)


def test_a_file_has_one_labelled_question_per_line(task_file: Path) -> None:
    task_file.write_text(
        '{"question": "2 + 3?", "answer": 5, "grader": "number", "class": "easy"}\n'
        "\n"
        '{"question": "Half of x?", "answer": "\\\\frac{x}{2}"}\n'
    )
    assert load_task(task_file) == Task(
        name="sums",
        answers="math",
        questions=(
            question(question="2 + 3?", answer="5", grader="number", **{"class": "easy"}),
            question(question="Half of x?", answer=r"\frac{x}{2}", grader="math", **{"class": "all"}),
        ),
    )


def test_the_path_may_be_text(task_file: Path) -> None:
    task_file.write_text('{"question": "2 + 3?", "answer": "5"}')
    assert load_task(str(task_file)) == load_task(task_file)


@pytest.mark.parametrize(
    ("gold", "grouping"),
    [(["A", "D"], "choice"), (['{\\"a\\": 1}', "[2]"], "json"), (["A", "Paris"], "text"), (["3", "4"], "text")],
)
def test_exact_answers_are_grouped_by_what_they_look_like(task_file: Path, gold: list[str], grouping: str) -> None:
    rows = [f'{{"question": "Which?", "answer": "{answer}", "grader": "exact"}}' for answer in gold]
    task_file.write_text("\n".join(rows))
    assert load_task(task_file).answers == grouping


def test_the_caller_may_say_how_answers_are_grouped(task_file: Path) -> None:
    task_file.write_text('{"question": "Which?", "answer": "A", "grader": "exact"}')
    assert load_task(task_file, answers="text").answers == "text"


def test_a_line_separator_inside_a_question_does_not_end_its_line(task_file: Path) -> None:
    task_file.write_text('{"question": "2 +\u2028 3?", "answer": "5"}', encoding="utf-8")
    assert load_task(task_file).questions[0].question == "2 +\u2028 3?"


def test_a_byte_order_mark_is_skipped(task_file: Path) -> None:
    task_file.write_text('{"question": "2 + 3?", "answer": "5"}', encoding="utf-8-sig")
    assert len(load_task(task_file).questions) == 1


def test_count_takes_the_first_questions(task_file: Path) -> None:
    task_file.write_text('{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n')
    assert [q.question for q in load_task(task_file, count=1).questions] == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"answer": "5"}', "line 2: key 'question': Field required"),
        ('{"question": "", "answer": "5"}', "line 2: key 'question': String should have at least 1 character"),
        ('{"question": "q"}', "line 2: key 'answer': Field required"),
        ('{"question": "q", "answer": true}', "line 2: key 'answer': Input should be a valid string"),
        ('{"question": "q", "answer": "5", "grade": "exact"}', "line 2: key 'grade': Extra inputs are not permitted"),
        ('{"question": "q", "answer": "5", "grader": "fuzzy"}', "line 2: key 'grader': Input should be 'exact'"),
        ('{"question": "q", "answer": "x", "grader": "number"}', "line 2: key 'grader': .*'x' is not a number"),
        ('{"question": "q", "answer": "nan", "grader": "number"}', "line 2: key 'grader': .*'nan' is not a number"),
        ('{"question": "q", "answer": "5", "class": 3}', "line 2: key 'class': Input should be a valid string"),
        ("[1]", "line 2: Input should be an object"),
        ('{"question": "q"', "line 2: Invalid JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_key(task_file: Path, line: str, message: str) -> None:
    task_file.write_text('{"question": "2 + 3?", "answer": "5"}\n' + line)
    with pytest.raises(TaskError, match=rf"sums\.jsonl, {message}"):
        load_task(task_file)


def test_exact_and_other_graders_do_not_mix_unless_the_grouping_is_told(task_file: Path) -> None:
    task_file.write_text('{"question": "a", "answer": "1"}\n{"question": "b", "answer": "2", "grader": "exact"}\n')
    with pytest.raises(TaskError, match=r"sums\.jsonl: key 'grader': `exact` and others are mixed"):
        load_task(task_file)
    assert load_task(task_file, answers="text").answers == "text"


def test_a_file_must_hold_as_many_questions_as_are_wanted(task_file: Path) -> None:
    task_file.write_text("\n")
    with pytest.raises(TaskError, match=r"sums\.jsonl: 0 questions, at least 1 wanted"):
        load_task(task_file)
    with pytest.raises(TaskError, match=r"sums\.jsonl: 0 questions, 5 wanted"):
        load_task(task_file, count=5)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"task tinymaths: no such file, and no built-in task .*tinymath-held-out"):
        load_task("tinymaths")
    with pytest.raises(TaskError, match="Is a directory"):
        load_task(tmp_path)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match=r"binary\.jsonl: not UTF-8"):
        load_task(binary)


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_one_is_refused(count: int) -> None:
    with pytest.raises(TaskError, match=f"count must be at least 1, got {count}"):
        load_task("tinymath", count=count)


@pytest.mark.parametrize(("name", "seed"), [("tinymath", POOL_SEED), ("tinymath-held-out", HELD_OUT_SEED)])
def test_the_built_in_tasks_are_tinymath_questions_graded_as_numbers(name: str, seed: int) -> None:
    task = load_task(name)
    assert (task.name, task.answers, len(task.questions)) == (name, "math", 200)
    assert [q.question for q in task.questions] == [q.question for q in questions(200, seed)]
    first = questions(1, seed)[0]
    assert task.questions[0] == question(
        question=first.question, answer=str(first.answer), grader="number", **{"class": f"steps-{first.steps}"}
    )


def test_a_built_in_task_has_as_many_questions_as_are_wanted() -> None:
    assert len(load_task("tinymath-held-out", count=30).questions) == 30


def test_the_built_in_tasks_share_no_question() -> None:
    pool = {q.question for q in load_task("tinymath").questions}
    assert pool.isdisjoint(q.question for q in load_task("tinymath-held-out", count=1000).questions)
