"""Workload files and traces: what is read, what is sent, and how mistakes are told."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loadtest_parts import workload, written

from profiler.loadtest import LoadTestError, trace_file
from profiler.loadtest.schedule import schedule
from profiler.loadtest.workload import load

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples/workloads").glob("*.yaml"))
VALID = """\
arrivals: {rate: 5, for_s: 10}
task: tinymath
classes:
  - name: a
    share: 0.5
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            VALID.replace("share: 0.5", "share: -1"),
            r"load\.yaml:5: classes\[0\]\.share: Input should be greater than 0",
        ),
        (VALID.replace("share", "weight"), r"load\.yaml:5: classes\[0\]\.weight: unknown key"),
        (VALID.replace("rate: 5, for_s: 10", "rate: 5"), r"load\.yaml:1: arrivals: `rate` needs `for_s`"),
        (VALID.replace("rate: 5,", ""), r"load\.yaml:1: arrivals: give one of `rate`"),
        (
            VALID.replace("rate: 5", "process: gamma, rate: 5"),
            r"load\.yaml:1: arrivals: `cv` goes with `process: gamma`",
        ),
        (VALID.replace("task: tinymath", "seed: 3"), r"load\.yaml:1: file: class 'a' asks nothing"),
        (VALID + "  - name: a\n", r"two classes are named 'a'"),
        (VALID + "    slo: {latency: 3}\n", r"load\.yaml:6: classes\[0\]\.slo\.latency: unknown key"),
        (VALID + "    name: b\n", r"load\.yaml:6: the key 'name' is given twice"),
        ("- a\n", r"load\.yaml:1: expected a mapping"),
        ("a: [\n", r"load\.yaml:2: "),
    ],
)
def test_a_mistake_is_told_with_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        written(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="cannot read"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_can_be_sent(path: Path) -> None:
    assert schedule(load(path)).requests


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"mixed", "steps", "replay"}


def test_classes_streams_and_leavers_come_in_their_shares() -> None:
    planned = schedule(
        workload(
            arrivals={"rate": 100, "for_s": 100},
            classes=[
                {"name": "often", "share": 3, "stream": 0.25},
                {"name": "seldom", "share": 1, "leave": {"share": 0.1, "within_s": 2}},
            ],
        )
    )
    names = Counter(request.slo_class.name for request in planned.requests)
    assert names["often"] / len(planned.requests) == pytest.approx(0.75, abs=0.02)
    streamed = [request for request in planned.requests if request.stream]
    assert {request.slo_class.name for request in streamed} == {"often"}
    assert len(streamed) / names["often"] == pytest.approx(0.25, abs=0.02)
    patience = [request.leave_after_s for request in planned.requests if request.leave_after_s is not None]
    assert len(patience) / names["seldom"] == pytest.approx(0.1, abs=0.03)
    assert all(0 <= one <= 2 for one in patience)
    assert sum(patience) / len(patience) == pytest.approx(1, abs=0.15)


def test_controls_are_headers_and_the_rest_is_the_body() -> None:
    slo = {"latency_ms": 800, "cost_usd": 0.0005, "quality": 0.7, "objective": "cost", "mode": "strict"}
    one = {"name": "a", "slo": slo, "tts": {"strategy": "self-consistency", "n": 4}, "stream": 1, "output_tokens": 9}
    request = schedule(workload(classes=[one], body={"temperature": 0.7}, ignore_eos=True)).requests[0]
    assert request.controls() == {
        "x-slo-latency-ms": "800",
        "x-slo-cost-usd": "0.0005",
        "x-slo-quality": "0.7",
        "x-slo-objective": "cost",
        "x-slo-mode": "strict",
        "x-tts-strategy": "self-consistency",
        "x-tts-n": "4",
    }
    body = request.members("m")
    assert len(body.pop("messages")[0]["content"].split()) == 10
    assert body == {
        "model": "m",
        "temperature": 0.7,
        "max_tokens": 9,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_class_without_limits_sends_no_control() -> None:
    assert schedule(workload(classes=[{"name": "plain"}])).requests[0].controls() == {}


def test_a_task_beside_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "1+1?", "answer": 2}\n{"question": "1+2?", "answer": 3}\n')
    planned = schedule(written(tmp_path, VALID.replace("tinymath", "mine.jsonl")))
    assert [request.prompt for request in planned.requests[:3]] == ["1+1?", "1+2?", "1+1?"]
    assert planned.requests[0].answers == "math"


AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:46.6805900,879,55
"""
BURST = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
46,GPT-4,0,0,0,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
OURS = [(2.0, 10, 5), (0.5, 7, 3), (4.0, 1, 1)]


def jsonl(*names: str, per_s: float = 1) -> str:
    return "".join(json.dumps(dict(zip(names, (at * per_s, *rest), strict=True))) + "\n" for at, *rest in OURS)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("azure.csv", AZURE, [(0, 374, 44), (4.314579, 396, 109), (60, 879, 55)]),
        ("burst.csv", BURST, [(0, 472, 18), (40, 1087, 230), (113, 417, 276)]),
        ("ours.jsonl", jsonl("at_s", "prompt_tokens", "output_tokens"), [(0, 7, 3), (1.5, 10, 5), (3.5, 1, 1)]),
        (
            "mooncake.jsonl",
            jsonl("timestamp", "input_length", "output_length", per_s=1000),
            [(0, 7, 3), (1.5, 10, 5), (3.5, 1, 1)],
        ),
    ],
)
def test_traces(tmp_path: Path, name: str, text: str, expected: list[tuple[float, int, int]]) -> None:
    (tmp_path / name).write_text(text)
    found = trace_file.read(tmp_path / name)
    assert [one[1:] for one in found] == [one[1:] for one in expected]
    assert [one.at_s for one in found] == pytest.approx([one[0] for one in expected], abs=1e-5)


def test_a_trace_sets_times_and_lengths_and_can_run_faster(tmp_path: Path) -> None:
    (tmp_path / "azure.csv").write_text(AZURE)
    load = written(tmp_path, {"arrivals": {"trace": "azure.csv", "speedup": 10}, "classes": [{"name": "a"}]})
    planned = schedule(load)
    assert [request.at_s for request in planned.requests] == pytest.approx([0, 0.4314579, 6])
    assert [(request.prompt_tokens, request.output_tokens) for request in planned.requests] == [
        (374, 44),
        (396, 109),
        (879, 55),
    ]
    assert planned.lasts_s == pytest.approx(6)
    cut = load.model_copy(update={"arrivals": load.arrivals.model_copy(update={"for_s": 2})})
    assert len(schedule(cut).requests) == 2 and schedule(cut).lasts_s == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,prompt,answer\n1,2,3\n", r"line 2: columns when, prompt, answer; expected at_s, prompt_tokens"),
        (AZURE + "soon,3,4\n", r"line 5: cannot read it"),
        ('{"at_s": 1, "prompt_tokens": 2, "output_tokens": 3}\n{"at_s"\n', r"line 2: not JSON"),
        ("at_s,prompt_tokens,output_tokens\n", r"no requests in it"),
    ],
)
def test_a_trace_that_cannot_be_read_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(LoadTestError, match=message):
        trace_file.read(tmp_path / "trace")


def test_made_up_prompts_differ_from_their_first_words_on() -> None:
    prompts: list[Any] = [request.prompt for request in schedule(workload(prompt_tokens=200)).requests]
    assert len({prompt[:60] for prompt in prompts}) == len(prompts)
    assert {len(prompt.split()) for prompt in prompts} == {200}
