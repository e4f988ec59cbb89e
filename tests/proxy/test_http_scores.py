"""Scores and similarities over HTTP: what the pooling runner is asked, what it costs, and what its failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from http_rig import QUESTION, Fleet, chat
from own_strategies import NAME, gathered, pinned, strategy
from scripted_backend import Play, answers, closes, resets, says, stalls, until
from scripted_pooled import ScriptedPooled, when

from proxy.service import FinishTime
from strategies.base import Context, Need, NoScore, Outcome, Scorer

FOUR, FIVE = "\\boxed{4}", "\\boxed{5}"


def best_of(by: Scorer, seen: list[Any]) -> type:
    """The best of two by a scorer; without scores, the first. `seen`: what it was told."""

    async def run(context: Context) -> Outcome:
        branches = await gathered(context, 2)
        try:
            scores = await context.score([branch.text for branch in branches], by)
        except NoScore as error:
            seen.append(str(error))
            return Outcome(tuple(branch.index for branch in branches), note="without scores")
        seen.append(scores)
        order = sorted(range(2), key=lambda at: -min(scores[at], default=0.0))
        return Outcome(tuple(branches[at].index for at in order))

    return strategy(run)


async def scored(
    fleet: Fleet, kind: str, by: Scorer, texts: Sequence[str], **members: Any
) -> tuple[ScriptedPooled, Any, Any, Any]:
    """(the scorer, the answer, the trace, the scores that the strategy saw)."""
    seen: list[Any] = []
    pooled = fleet.scripted_pooled[kind] if kind in fleet.scripted_pooled else await fleet.pooled(kind)
    backend, proxy = await fleet.one(best_of(by, seen))
    gates = [asyncio.Event() for _ in texts]
    backend.will(*[says(text, when=gate) for text, gate in zip(texts, gates, strict=True)])
    asking = asyncio.create_task(proxy.ask(pinned(**members)))
    await until(lambda: len(backend.generations) == len(texts))
    for gate in gates:
        gate.set()
    answer = await asking
    assert answer.status_code == 200, answer.text
    return pooled, answer.json(), await proxy.trace(), seen[0]


def content(answer: Any) -> str:
    said: str = answer["choices"][0]["message"]["content"]
    return said


async def test_an_outcome_reward_reads_the_whole_chat(fleet: Fleet) -> None:
    pooled = await fleet.pooled("outcome")
    pooled.reward = lambda answer: 0.9 if FOUR in answer else 0.2

    _, answer, trace, scores = await scored(fleet, "outcome", "reward", [FIVE, FOUR])

    assert scores == [[pytest.approx(0.2)], [pytest.approx(0.9)]]
    assert content(answer) == FOUR
    assert pooled.at("/tokenize")[0]["messages"] == [*QUESTION, {"role": "assistant", "content": FIVE}]
    assert pooled.at("/classify")[0]["model"] == "outcome"
    (row,) = [row for row in trace["branches"] if row["role"] == "score"]
    assert (row["backend"], row["outcome"], row["wave"]) == ("outcome", "completed", 1)
    assert row["prompt_tokens"] == sum(map(len, pooled.at("/classify")[0]["input"])) > 0
    assert row["gpu_seconds"] > 0 and row["cost_usd"] == pytest.approx(row["gpu_seconds"] * 3.6 / 3600)


THOUGHT = f"<think>\n2 + 2 = 4\n</think>\n{FOUR}"
CUT = "<think>\n2 + 2 ="


@pytest.mark.parametrize("kind", ["outcome", "process", "reranker"])
@pytest.mark.parametrize(("reads_thinking", "shown"), [(True, [THOUGHT, CUT]), (False, [FOUR, CUT])])
async def test_a_scorer_is_shown_the_thinking_only_where_it_was_trained_on_it(
    fleet: Fleet, kind: str, reads_thinking: bool, shown: list[str]
) -> None:
    """What was cut off while thinking is shown either way: there is nothing else."""
    pooled = await fleet.pooled(kind)
    pooled.reads_thinking = reads_thinking

    await scored(fleet, kind, SCORERS[kind], [THOUGHT, CUT])

    if kind == "reranker":
        assert pooled.at("/score")[0]["text_2"] == shown
    else:
        chats = [asked["messages"] for asked in pooled.at("/tokenize") if asked["messages"][-1]["role"] == "assistant"]
        assert [chat[-1]["content"] for chat in chats] == shown


@pytest.mark.parametrize("kind", ["outcome", "process"])
@pytest.mark.parametrize("reads_thinking", [True, False])
async def test_best_of_n_chooses_by_the_thinking_where_the_scorer_reads_it(
    fleet: Fleet, kind: str, reads_thinking: bool
) -> None:
    """Only what was thought tells the right answer: without it both score alike, and the first one stands."""
    pooled = await fleet.pooled(kind)
    pooled.reads_thinking = reads_thinking
    sound, unsound = f"<think>\nsound\n</think>\n{FOUR}", f"<think>\nunsound\n</think>\n{FIVE}"
    words: list[str] = []  # as far as the process reward has read

    def step(word: str) -> float:
        words.append(word)
        return 0.9 if word == FOUR and "sound" in words else 0.5

    pooled.reward = lambda answer: 0.9 if " sound " in answer else 0.5
    pooled.step_reward = step
    backend, proxy = await fleet.one()
    gate = asyncio.Event()
    backend.will(says(unsound), says(sound, when=gate))
    asked = chat(tts={"strategy": "best-of-n", "n": 2, "scorer": SCORERS[kind]})
    asking = asyncio.create_task(proxy.ask(asked))
    await until(lambda: bool(pooled.at("/classify" if kind == "outcome" else "/pooling")))
    gate.set()
    answer = await asking

    assert answer.status_code == 200, answer.text
    assert content(answer.json()) == (sound if reads_thinking else unsound)


async def test_a_search_is_judged_by_all_that_it_has_written(fleet: Fleet) -> None:
    async def run(context: Context) -> Outcome:
        (branch,) = await gathered(context, 1)
        await context.score([branch.text], "process-reward", so_far=True)
        return Outcome((branch.index,))

    pooled = await fleet.pooled("process")
    backend, proxy = await fleet.one(strategy(run))
    backend.otherwise = says(THOUGHT)
    await proxy.ask(pinned())

    assert THOUGHT in [asked["messages"][-1]["content"] for asked in pooled.at("/tokenize")]


async def test_scores_are_paid_for_but_are_no_tokens_of_the_clients(fleet: Fleet) -> None:
    _, answer, trace, _ = await scored(fleet, "outcome", "reward", [FIVE, FOUR])

    rows = trace["branches"]
    own = [row for row in rows if row["role"] is None]
    assert answer["usage"]["prompt_tokens"] == sum(row["prompt_tokens"] for row in own)
    assert answer["usage"]["tts"]["completed"] == 2, "a score is no branch"
    attributed = trace["ledgers"]["attributed"]
    assert attributed["gpu_seconds"] == pytest.approx(sum(row["gpu_seconds"] for row in rows), abs=1e-8)
    assert attributed["usd"] == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-12)
    assert trace["ledgers"]["attributed"]["gpu_seconds"] > sum(row["gpu_seconds"] for row in own)


@pytest.mark.parametrize(
    ("mark", "text", "steps"),
    [
        (None, "Two and two .\n\nSo four .\nDone", [0.5, 0.25, 0.75]),
        (None, "Done", [0.75]),
        ("<step>", "Two <step> So\nfour <step> Done", [0.1, 0.1, 0.75]),
    ],
    ids=["new lines", "one step", "a token of the model's own"],
)
async def test_a_process_reward_is_read_where_steps_end(
    fleet: Fleet, mark: str | None, text: str, steps: list[float]
) -> None:
    """The last new line of several ends a step, and so does the answer's end."""
    pooled = await fleet.pooled("process")
    pooled.step_token = mark
    rewards = {"Done": 0.75, "<step>": 0.1}
    lines = iter([0.9, 0.5, 0.25])  # of each new line, in order
    pooled.step_reward = lambda token: next(lines) if token == "Ċ" and mark is None else rewards.get(token, 0.0)

    async def run(context: Context) -> Outcome:
        (branch,) = await gathered(context, 1)
        seen.append(await context.score([branch.text], "process-reward"))
        return Outcome((branch.index,))

    seen: list[Any] = []
    backend, proxy = await fleet.one(strategy(run))
    backend.otherwise = says(text)
    await proxy.ask(pinned())

    assert seen == [[pytest.approx(steps)]]
    assert pooled.at("/pooling")[0]["task"] == "token_classify"
    assert any(asked.get("continue_final_message") for asked in pooled.at("/tokenize")), "as far as it has come"


async def test_a_reranker_scores_answers_against_the_question(fleet: Fleet) -> None:
    pooled = await fleet.pooled("reranker")
    pooled.rank = lambda question, answer: 0.8 if question == "What is 2 + 2?" and FOUR in answer else 0.3

    _, answer, trace, scores = await scored(fleet, "reranker", "reranker", [FIVE, FOUR])

    assert scores == [[0.3], [0.8]] and content(answer) == FOUR
    assert [row["prompt_tokens"] for row in trace["branches"] if row["role"] == "score"] == [20]


async def test_similarities_are_cosines(fleet: Fleet) -> None:
    pooled = await fleet.pooled("embedding")
    vectors = {"a": [2.0, 0.0], "b": [0.0, 3.0], "c": [1.0, 1.0]}
    pooled.vector = lambda text: vectors.get(text, [1.0, 0.0])
    seen: list[Any] = []

    async def run(context: Context) -> Outcome:
        seen.append(await context.similarity(["a", "b", "c"]))
        seen.append(await context.similarity([]))
        return Outcome(tuple(branch.index for branch in await gathered(context, 1)))

    _, proxy = await fleet.one(strategy(run))
    await proxy.ask(pinned())

    half = pytest.approx(0.5**0.5)
    assert seen == [[[1.0, 0.0, half], [0.0, 1.0, half], [half, half, pytest.approx(1.0)]], []]
    assert [row["prompt_tokens"] for row in (await proxy.trace())["branches"] if row["role"] == "score"] == [9]


def rows(*data: object) -> Play:
    return answers(200, json.dumps({"data": data}).encode())


BROKEN = {
    "refused": answers(500, b'{"error": "no"}'),
    "closed": closes(),
    "reset": resets(),
    "no JSON": answers(200, b"<html>"),
    "no data": answers(200, b"{}"),
    "a row too few": rows({"probs": [0.1, 0.9], "score": 1, "data": [[0.5]], "embedding": [1.0]}),
    "empty rows": rows({}, {}),
    "nulls": rows(*[{"probs": None, "score": None, "data": None, "embedding": None}] * 2),
    "words": rows(*[{"probs": ["x"], "score": "x", "data": ["x", ["y"]], "embedding": ["x"]}] * 2),
    "other shapes": rows(*[{"probs": [], "data": [[]], "score": [1], "embedding": []}] * 2),
}
PATHS = {"outcome": "/classify", "process": "/pooling", "reranker": "/score"}
SCORERS: dict[str, Scorer] = {"outcome": "reward", "process": "process-reward", "reranker": "reranker"}


@pytest.mark.parametrize("kind", PATHS)
async def test_a_scorer_that_fails_leaves_the_strategy_its_fallback(fleet: Fleet, kind: str) -> None:
    """Whatever the scorer answers, the client has its answer, and the reason is told."""
    seen: list[Any] = []
    pooled = await fleet.pooled(kind)
    _, proxy = await fleet.one(best_of(SCORERS[kind], seen))

    for play in BROKEN.values():
        pooled.plays[PATHS[kind]] = play
        answer = await proxy.ask(pinned())
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["tts"]["note"] == "without scores"

    assert len(seen) == len(BROKEN)
    assert all(isinstance(told, str) and told.startswith(f"{kind}: {PATHS[kind]}") for told in seen), seen


@pytest.mark.parametrize(
    "tokenized", [answers(400, b"{}"), answers(200, b"[]"), answers(200, b'{"tokens": [1, 2, 3]}')]
)
async def test_so_does_one_whose_tokenizer_fails(fleet: Fleet, tokenized: Play) -> None:
    pooled = await fleet.pooled("process")
    pooled.plays["/tokenize"] = tokenized

    _, answer, _, told = await scored(fleet, "process", "process-reward", [FIVE, FOUR])

    assert answer["usage"]["tts"]["note"] == "without scores" and "process" in told


async def test_embeddings_that_fail_are_no_similarities(fleet: Fleet) -> None:
    seen: list[Any] = []

    async def run(context: Context) -> Outcome:
        seen.append(await context.similarity(["a", "b"]))
        return Outcome(tuple(branch.index for branch in await gathered(context, 1)))

    pooled = await fleet.pooled("embedding")
    _, proxy = await fleet.one(strategy(run))
    for play in (*BROKEN.values(), rows({"embedding": [1.0]}, {"embedding": [1.0, 2.0]})):
        pooled.plays["/v1/embeddings"] = play
        assert (await proxy.ask(pinned())).status_code == 200

    assert seen == [None] * (len(BROKEN) + 1)


async def test_a_deadline_during_the_scoring_is_kept(fleet: Fleet) -> None:
    seen: list[Any] = []
    pooled = await fleet.pooled("outcome")
    _, proxy = await fleet.one(best_of("reward", seen))
    proxy.service.finish_time = FinishTime(mean_s=0.2, deviation_s=0.0)
    pooled.plays["/classify"] = stalls()

    began = time.monotonic()
    answer = await proxy.ask(pinned(), x_slo_latency_ms="400")

    assert time.monotonic() - began < 0.4
    told = answer.json()["usage"]["tts"]
    assert (told["slo_status"], told["completed"], told["note"]) == ("degraded", 2, "without scores")
    assert seen == ["the deadline came before the scores"]
    trace = await proxy.trace()
    assert [row["outcome"] for row in trace["branches"]] == ["completed", "completed", "cancelled"]
    assert trace["selection"]["cut_by_deadline"] is True


async def test_after_the_deadline_no_score_is_asked_for(fleet: Fleet) -> None:
    async def slow(context: Context) -> Outcome:
        branches = await gathered(context, 1)
        while not context.out_of_time:
            await asyncio.sleep(0.005)
        for ask in (context.score(["4"], "reward"), context.similarity(["4"])):
            with contextlib.suppress(NoScore):
                assert await ask is None
        return Outcome((branches[0].index,))

    rewards, embeddings = await fleet.pooled("outcome"), await fleet.pooled("embedding")
    _, proxy = await fleet.one(strategy(slow))
    proxy.service.finish_time = FinishTime(mean_s=0.2, deviation_s=0.0)

    assert (await proxy.ask(pinned(), x_slo_latency_ms="400")).status_code == 200
    assert not rewards.at("/tokenize") and not embeddings.at("/v1/embeddings")


async def test_a_slow_scorer_is_waited_for_where_there_is_time(fleet: Fleet) -> None:
    seen: list[Any] = []
    gate = asyncio.Event()
    pooled = await fleet.pooled("outcome")
    pooled.plays["/classify"] = when(gate, rows({"probs": [0.4, 0.6]}, {"probs": [0.5, 0.5]}))
    _, proxy = await fleet.one(best_of("reward", seen))
    asking = asyncio.create_task(proxy.ask(pinned()))
    await until(lambda: bool(pooled.at("/classify")))
    gate.set()

    assert (await asking).status_code == 200
    assert seen == [[[0.6], [0.5]]]


async def test_a_strategy_that_needs_a_scorer_which_is_down_is_refused(fleet: Fleet) -> None:
    async def run(context: Context) -> Outcome:
        return Outcome(tuple(branch.index for branch in await gathered(context, 1)))

    pooled = await fleet.pooled("outcome")
    pooled.healthy = False
    backend, proxy = await fleet.one(strategy(run, needs=[Need.REWARD]))
    await proxy.probed()

    answer = await proxy.ask(pinned(NAME))

    assert answer.status_code == 503
    assert "needs-unserved" in answer.json()["error"]["message"]
    assert backend.generations == []
