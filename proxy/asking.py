"""From a call to what the planner is asked: task, grouping, pins, and why only one branch may run, where that is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.authorization import check_samples, check_strategy
from proxy.call import Call
from proxy.capabilities import ENGINE_NEEDS
from proxy.catalog import Served
from proxy.client_keys import ANYBODY, Caller
from proxy.controls import Controls
from proxy.errors import InvalidControl, InvalidRequest
from proxy.plans import Ask, Pinned
from proxy.upstream_body import prompt_text
from strategies.answers import AnswerKind
from strategies.base import Need
from strategies.registry import InvalidParameters, Registry, UnknownStrategy


@dataclass(frozen=True, slots=True)
class Question:
    """An ask with how its answers are grouped; `note` says why a free choice was narrowed."""

    ask: Ask
    answers: AnswerKind | None
    note: str | None


def question(
    call: Call, models: Sequence[Served], registry: Registry, prompt_tokens: float, caller: Caller = ANYBODY
) -> Question:
    """What the client pins beyond its key's limits is refused; a free choice keeps within them. Raises InvalidControl,
    InvalidRequest or Forbidden."""
    _check_prompt(call)
    controls = call.controls
    task = _task(controls, models)
    answers = _answers(call, task, models)
    pinned = _pinned(controls, models, registry)
    note, single = None, None
    if pinned is None:
        single = _single_only(call, answers, models)
        note = single or (_NO_ANSWERS if answers is None else None)
    else:
        answers = answers or ("tools" if call.peek.tools else "math")  # without a task the last stated answer votes
        _check_needs(call, pinned, models)
    told = answers is not None and any(served.table(task).answers == answers for served in models)
    lacking = _lacking(call, answers, told=told)
    _check_n(call, pinned, single)
    _check_rights(caller, call, pinned)
    ask = Ask(
        slo=controls.slo,
        task=task,
        prompt_tokens=prompt_tokens,
        max_tokens=call.max_tokens,
        greedy=call.greedy,
        stream=call.stream,
        pinned=pinned,
        n=controls.n if pinned is None else None,
        at_least=call.answers_wanted,
        single_only=single,
        lacking=lacking,
        at_most=caller.limits.max_n,
        strategies=caller.limits.strategies,
    )
    return Question(ask, answers, note)


def _check_prompt(call: Call) -> None:
    """A list of token ids is one prompt; a list of prompts asks for an answer to each, which no vote keeps apart."""
    prompt = None if call.chat else call.decoded().get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        raise InvalidRequest("prompt: several prompts at once cannot be scaled; send each alone", param="prompt")


def _task(controls: Controls, models: Sequence[Served]) -> str | None:
    if controls.task is None:
        return next((served.default_task for served in models if served.default_task), None)
    known = sorted({task for served in models for task in served.tables if task is not None})
    if controls.task not in known:
        raise InvalidControl("x-tts-task", f"model has no task {controls.task!r}; it has {', '.join(known) or 'none'}")
    return controls.task


def _answers(call: Call, task: str | None, models: Sequence[Served]) -> AnswerKind | None:
    if call.peek.tools:
        return "tools"
    kind = (call.peek.response_format or {}).get("type")
    if kind in ("json_object", "json_schema"):
        return "json"
    for served in models:
        found = served.table(task).answers or served.config.answers
        if found is not None:
            return found
    return None


def _scorer(models: Sequence[Served]) -> str:
    """What best-of-n scores by where the client does not say: the best that the model has and that is not known to be
    unable."""
    has = {need for served in models for need in served.has if served.problem_of(need) is None}
    for need, scorer in _SCORERS.items():
        if need in has:
            return scorer
    return "self-certainty"


_SCORERS = {
    Need.REWARD: "reward",
    Need.PROCESS_REWARD: "process-reward",
    Need.RERANKER: "reranker",
    Need.JUDGE: "judge",
}


def _pinned(controls: Controls, models: Sequence[Served], registry: Registry) -> Pinned | None:
    name = controls.pinned
    if name is None:
        return None
    try:
        parameters = dict(controls.params)
        if controls.n is not None:
            parameters = {**parameters, **registry.get(name).pin(controls.n)}
        if name == "best-of-n" and "scorer" not in parameters:
            parameters["scorer"] = _scorer(models)
        strategy = registry.build(name, parameters)
    except UnknownStrategy as error:
        raise InvalidControl("x-tts-strategy", str(error)) from error
    except InvalidParameters as error:
        raise InvalidControl(f"tts.{error.parameter}", str(error)) from error
    except ValueError as error:
        raise InvalidControl("x-tts-n", str(error)) from error
    shape = strategy.shape()
    window = shape.window if shape.votes else None
    return Pinned(name, strategy.params.model_dump(), shape.branches, shape.waves, strategy.required(), window)


_NO_ANSWERS = "no task says how answers are compared: nothing to choose among samples by but their scores"


def _single_only(call: Call, answers: AnswerKind | None, models: Sequence[Served]) -> str | None:
    if call.peek.tools:
        return "requests with tools run one branch unless a strategy is pinned"
    if answers is None and not any(served.has & _SCORES for served in models):
        return "no task says how answers are compared: nothing to choose among samples by"
    if call.greedy:
        return "temperature 0: every sample would be the same"
    return None


_SCORES = frozenset({Need.REWARD, Need.PROCESS_REWARD, Need.RERANKER, Need.JUDGE})
_MEANING = {
    Need.CHAT: "a chat, which no backend of the model serves",
    Need.LOGPROBS: "top log probabilities, which no backend of the model gives",
    Need.CONTINUATION: "generation that goes on from a text, which no backend of the model can",
    Need.REWARD: "an outcome reward model (`reward_model` with kind outcome), which the model has not",
    Need.PROCESS_REWARD: "a process reward model (`reward_model` with kind process), which the model has not",
    Need.RERANKER: "a reranker (`reward_model` with kind reranker), which the model has not",
    Need.JUDGE: "a judge (`judge` in the configuration), which the model has not",
    Need.LARGER_MODEL: "a larger model (`larger_model` in the configuration), which the model has not",
}


def _lacking(call: Call, answers: AnswerKind | None, *, told: bool) -> frozenset[Need]:
    """Needs that the request itself does not meet. `told`: a table is of answers of its kind."""
    lacking = {Need.SAMPLING} if call.greedy else set()
    if answers is None:
        lacking.add(Need.ANSWERS)
    if not told or (call.tells_sampling and not call.greedy):
        lacking.add(Need.FREE_SAMPLING)
    if not call.chat:
        lacking.add(Need.CHAT)
        if _is_token_ids(call.decoded().get("prompt")):
            lacking.add(Need.CONTINUATION)
    return frozenset(lacking)


def _is_token_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and not isinstance(prompt[0] if prompt else None, str)


def _check_needs(call: Call, pinned: Pinned, models: Sequence[Served]) -> None:
    """Raises InvalidControl, naming the need that nobody meets; InvalidRequest for a prompt that nothing can go on."""
    name, needs = pinned.strategy, pinned.needs
    if Need.SAMPLING in needs and call.greedy:
        raise InvalidControl("x-tts-strategy", f"{name} needs sampling; the request's temperature is 0")
    if Need.FREE_SAMPLING in needs and call.tells_sampling and not call.greedy:
        raise InvalidControl("tts.greedy", "greedy is for requests that set no temperature, top_p, top_k or min_p")
    if Need.CHAT in needs and not call.chat:
        raise InvalidControl("x-tts-strategy", f"{name} needs a chat; {call.path} has none")
    if Need.CONTINUATION in needs and not call.chat:
        prompt_text(call)
    for need in sorted(needs & _MEANING.keys()):
        unmet = [_unmet(need, served) for served in models]
        if all(unmet):
            raise InvalidControl("x-tts-strategy", f"{name} needs {unmet[0]}")


def _unmet(need: Need, served: Served) -> str | None:
    """What the model lacks that the need asks for; None where it has it, as far as is known."""
    if need in ENGINE_NEEDS:
        return None if any(b.meets([need], unless_known=True) for b in served.backends) else _MEANING[need]
    if need not in served.has:
        return _MEANING[need]
    problem = served.problem_of(need)
    return f"scores, and its scorer gives none: {problem}" if problem is not None else None


def _check_rights(caller: Caller, call: Call, pinned: Pinned | None) -> None:
    """Raises Forbidden."""
    if pinned is not None:
        check_strategy(caller, pinned.strategy)
        check_samples(caller, pinned.branches, "x-tts-n")
    elif call.controls.n is not None:
        check_samples(caller, call.controls.n, "x-tts-n")


def _check_n(call: Call, pinned: Pinned | None, note: str | None) -> None:
    wanted, n = call.answers_wanted, call.controls.n
    if pinned is None and n is not None and n > 1 and note is not None:
        raise InvalidControl("x-tts-n", f"{n} branches cannot run: {note}")
    if n is not None and n < wanted:
        raise InvalidControl("x-tts-n", f"{n} branches cannot give the {wanted} answers that `n` asks for")
    if wanted == 1:
        return
    window = pinned.window if pinned else None
    branches = window or (pinned.branches if pinned else 1 if note is not None else wanted)
    if branches < wanted:
        runs = f"{branches} branches at a time; raise window" if window else f"{branches} branches; raise x-tts-n"
        raise InvalidRequest(f"n: {wanted} answers were asked for, but the strategy runs {runs}", param="n")
