"""A completion request in vLLM's dialect, as the simulation understands it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from profiler.simulation.answers import AnswerPool
from profiler.simulation.kv_memory import Prompt
from profiler.simulation.tokenizer import Vocabulary, prompt_of, tokens_of

COMPLETION_MAX_TOKENS = 16  # vLLM's default for text completions
MAX_N = 128


class Refused(Exception):
    """An error answer: status, vLLM's type, message and parameter."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param

    def body(self) -> bytes:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def bad_request(message: str, param: str | None = None) -> Refused:
    return Refused(400, "BadRequestError", message, param)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt: Any = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stream_interval: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    thinking_token_budget: int | None = None
    priority: int | None = None


_decode = msgspec.json.Decoder(_Body, strict=True).decode


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt: its tokens, the text that an answer is looked up by, and what the answer goes on from.

    `told`: the number of prompt tokens that the client is told: for a question of the pool, the model's own.
    """

    prompt: Prompt
    text: str
    pieces: Sequence[str]
    told: int
    continues: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole request. `top_logprobs` None: no log probabilities; `usage_at_end`, `usage_always`: stream options;
    `every`: tokens a chunk; `limit`: most tokens of an answer to each question."""

    chat: bool
    questions: tuple[Question, ...]
    n: int
    stream: bool
    usage_at_end: bool
    usage_always: bool
    every: int
    limits: tuple[int, ...]
    min_tokens: int
    ignore_eos: bool
    greedy: bool
    seed: int | None
    stop: tuple[str, ...]
    keep_stop: bool
    top_logprobs: int | None
    priority: int = 0


class Reader:
    """Reads the requests of one model."""

    def __init__(self, model: str, max_model_len: int, pool: AnswerPool, vocabulary: Vocabulary) -> None:
        self._model, self._max_len, self._pool, self._vocabulary = model, max_model_len, pool, vocabulary

    def read(self, body: bytes, *, chat: bool) -> Asked:
        """Raises Refused."""
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_request(f"the body is not valid: {error}") from error
        self.check_model(asked.model)
        if asked.thinking_token_budget is not None:
            raise bad_request("thinking_token_budget is not simulated", "thinking_token_budget")
        questions = (self._chat(asked),) if chat else self._prompts(asked.prompt)
        options = asked.stream_options or _StreamOptions()
        stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        n = asked.n or 1
        if not 1 <= n <= MAX_N:
            raise bad_request(f"n must be from 1 to {MAX_N}, got {n}", "n")
        return Asked(
            chat=chat,
            questions=questions,
            n=n,
            stream=bool(asked.stream),
            usage_at_end=bool(options.include_usage),
            usage_always=bool(options.include_usage and options.continuous_usage_stats),
            every=max(1, asked.stream_interval or 1),
            limits=tuple(self._limit(asked, question, chat=chat) for question in questions),
            min_tokens=asked.min_tokens or 0,
            ignore_eos=bool(asked.ignore_eos),
            greedy=asked.temperature == 0,
            seed=asked.seed,
            stop=tuple(text for text in stop if text),
            keep_stop=bool(asked.include_stop_str_in_output),
            top_logprobs=_top(asked, chat=chat),
            priority=asked.priority or 0,
        )

    def question(self, body: bytes) -> Question:
        """The prompt of a `/tokenize` request. Raises Refused."""
        try:
            asked = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_request(f"the body is not valid: {error}") from error
        self.check_model(asked.model)
        return self._chat(asked) if asked.messages is not None else self._prompts(asked.prompt)[0]

    def check_model(self, name: str | None) -> None:
        if name is not None and name != self._model:
            raise Refused(404, "NotFoundError", f"The model `{name}` does not exist.", "model")

    def _chat(self, asked: _Body) -> Question:
        messages = asked.messages
        if not messages:
            raise bad_request("messages: at least one message is needed", "messages")
        roles, texts = [str(message.get("role", "")) for message in messages], [_text(message) for message in messages]
        going_on = bool(asked.continue_final_message)
        if going_on and roles[-1] != "assistant":
            raise bad_request("continue_final_message needs an assistant's message at the end", "messages")
        pieces = [
            piece
            for role, text in zip(roles, texts, strict=True)
            for piece in ("<|im_start|>", f"{role}\n", *tokens_of(text), "<|im_end|>", "\n")
        ]
        if going_on:
            del pieces[-2:]
        elif asked.add_generation_prompt is not False:
            pieces += ["<|im_start|>", "assistant\n"]
        users = [text for role, text in zip(roles, texts, strict=True) if role == "user"]
        told = self._pool.prompt_tokens(texts[0]) if len(texts) == 1 else None
        text = users[-1] if users else texts[-1]
        return Question(prompt_of(pieces), text, pieces, told or len(pieces), texts[-1] if going_on else "")

    def _prompts(self, prompt: Any) -> tuple[Question, ...]:
        """A text, a list of token ids, or a list of either."""
        if isinstance(prompt, str):
            return (self._prompt(prompt),)
        if isinstance(prompt, list) and prompt:
            if all(isinstance(token, int) for token in prompt):
                return (self._ids(prompt),)
            if all(isinstance(one, str) for one in prompt):
                return tuple(self._prompt(one) for one in prompt)
            if all(isinstance(one, list) and one and all(isinstance(t, int) for t in one) for one in prompt):
                return tuple(self._ids(one) for one in prompt)
        raise bad_request("prompt: a text, a list of token ids, or a list of either is needed", "prompt")

    def _prompt(self, text: str) -> Question:
        pieces = tokens_of(text) or [""]
        return Question(prompt_of(pieces), text, pieces, len(pieces))

    def _ids(self, ids: list[int]) -> Question:
        return Question(prompt_of(ids), self._vocabulary.decode(ids[:64]), (), len(ids))

    def _limit(self, asked: _Body, question: Question, *, chat: bool) -> int:
        tokens = max(question.prompt.tokens, question.told)
        room = self._max_len - tokens
        wanted = asked.max_completion_tokens or asked.max_tokens or (room if chat else COMPLETION_MAX_TOKENS)
        if wanted < 1 or room < wanted:
            raise bad_request(
                f"This model's maximum context length is {self._max_len} tokens. However, you requested {wanted} "
                f"output tokens and your prompt contains {tokens} input tokens. Please reduce either of them.",
                "max_tokens",
            )
        return int(wanted)


def _top(asked: _Body, *, chat: bool) -> int | None:
    if not chat:
        return int(asked.logprobs) if asked.logprobs is not None and asked.logprobs is not False else None
    return (asked.top_logprobs or 0) if asked.logprobs else None


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
