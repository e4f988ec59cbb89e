"""From a call to what the planner is asked: task, grouping, pins, and why only one branch may run, where that is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.call import Call
from proxy.catalog import Served
from proxy.controls import Controls
from proxy.errors import InvalidControl, InvalidRequest
from proxy.planner import Ask
from strategies.answers import AnswerKind
from strategies.base import Need
from strategies.registry import InvalidParameters, Registry, UnknownStrategy


@dataclass(frozen=True, slots=True)
class Question:
    """An ask with how its answers are grouped; `note` says why a free choice was narrowed."""

    ask: Ask
    answers: AnswerKind | None
    note: str | None


def question(call: Call, models: Sequence[Served], registry: Registry, prompt_tokens: float) -> Question:
    """Raises InvalidControl or InvalidRequest."""
    _check_prompt(call)
    controls = call.controls
    task = _task(controls, models)
    answers = _answers(call, task, models)
    pinned = _pinned(controls, registry)
    note = None
    if pinned is None:
        note = _single_only(call, answers)
    else:
        answers = answers or "math"  # pinned without a task: the last boxed, stated or numeric answer votes
        _check_needs(call, registry, pinned[0], controls)
    _check_n(call, pinned, registry, note)
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
        single_only=note,
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
    kind = (call.peek.response_format or {}).get("type")
    if kind in ("json_object", "json_schema"):
        return "json"
    for served in models:
        found = served.table(task).answers or served.config.answers
        if found is not None:
            return found
    return None


def _pinned(controls: Controls, registry: Registry) -> tuple[str, dict[str, object]] | None:
    name = controls.pinned
    if name is None:
        return None
    try:
        parameters = dict(controls.params)
        if controls.n is not None:
            parameters = {**parameters, **registry.get(name).pin(controls.n)}
        strategy = registry.build(name, parameters)
    except UnknownStrategy as error:
        raise InvalidControl("x-tts-strategy", str(error)) from error
    except InvalidParameters as error:
        raise InvalidControl(f"tts.{error.parameter}", str(error)) from error
    except ValueError as error:
        raise InvalidControl("x-tts-n", str(error)) from error
    return name, strategy.params.model_dump()


def _single_only(call: Call, answers: AnswerKind | None) -> str | None:
    if call.peek.tools:
        return "requests with tools run one branch unless a strategy is pinned"
    if answers is None:
        return "no task says how answers are compared: nothing to choose among samples by"
    if call.greedy:
        return "temperature 0: every sample would be the same"
    return None


def _check_needs(call: Call, registry: Registry, name: str, controls: Controls) -> None:
    needs = registry.get(name).needs
    if Need.SAMPLING in needs and call.greedy:
        raise InvalidControl("x-tts-strategy", f"{name} needs sampling; the request's temperature is 0")


def _check_n(call: Call, pinned: tuple[str, dict[str, object]] | None, registry: Registry, note: str | None) -> None:
    wanted, n = call.answers_wanted, call.controls.n
    if pinned is None and n is not None and n > 1 and note is not None:
        raise InvalidControl("x-tts-n", f"{n} branches cannot run: {note}")
    if n is not None and n < wanted:
        raise InvalidControl("x-tts-n", f"{n} branches cannot give the {wanted} answers that `n` asks for")
    if wanted == 1:
        return
    branches = registry.build(*pinned).shape().branches if pinned else 1 if note is not None else wanted
    if branches < wanted:
        raise InvalidRequest(
            f"n: {wanted} answers were asked for, but the strategy runs {branches} branches; raise x-tts-n", param="n"
        )
