"""A model's chat template, rendered as transformers renders it and with the arguments that vLLM gives it."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.chat_messages import (
    ContentFormat,
    Message,
    UncountableChat,
    conversation,
    developer_as_system,
    tool_schemas,
)
from proxy.content_format import content_format
from proxy.tokenizer_json import named_tokens, read_config

# transformers' mark for the end of a message to be continued (`render_jinja_template`); the blank is part of it.
_CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG "
# Arguments of `apply_chat_template` that are no template variables, and variables that a request may not set.
_NOT_FOR_REQUESTS = frozenset(
    {"chat_template", "tokenize", "conversation", "messages", "padding", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)


class ChatTemplate:
    """One model's template, or its named templates. Immutable; safe to share."""

    def __init__(self, sources: Mapping[str, str], variables: Mapping[str, str]) -> None:
        """`sources`: template name → Jinja source, at least "default"; `variables`: `bos_token` and the like.

        Raises jinja2's `TemplateError` for a source that does not compile.
        """
        environment = _environment()
        self._templates = {
            name: _Compiled.of(environment, source) for name, source in sources.items() if _is_used(name)
        }
        self._variables = dict(variables)

    @classmethod
    def from_folder(cls, folder: Path) -> Self | None:
        """The template beside a tokenizer (`chat_template.jinja` wins over `tokenizer_config.json`), or None."""
        config = read_config(folder)
        sources = _sources(folder, config)
        if "default" not in sources:
            return None
        return cls(sources, named_tokens(config))

    def render(self, body: Mapping[str, Any]) -> str:
        """The prompt of a chat completion request.

        Raises `UncountableChat` for media, for what the template refuses and for what vLLM refuses.
        """
        tools = tool_schemas(body.get("tools"))
        template = self._templates["default"]
        if tools is not None:
            template = self._templates.get("tool_use", template)
        messages = conversation(body.get("messages"), template.content_format)
        if not template.knows_developer:
            messages = developer_as_system(messages)
        variables = {**self._variables, "tools": tools, "documents": None, **_arguments(body)}
        try:
            return _render(template, messages, variables)
        except UncountableChat:
            raise
        except Exception as error:  # whatever a template can be made to raise; vLLM answers 400
            raise UncountableChat(f"the template refuses the request: {error}") from error


@dataclass(frozen=True, slots=True)
class _Compiled:
    template: Template
    content_format: ContentFormat
    knows_developer: bool
    mentions_content: bool

    @classmethod
    def of(cls, environment: ImmutableSandboxedEnvironment, source: str) -> Self:
        return cls(
            template=environment.from_string(source),
            content_format=content_format(environment.parse(source)),
            knows_developer='"developer"' in source or "'developer'" in source,
            mentions_content="content" in source,
        )


def _is_used(name: str) -> bool:
    return name in ("default", "tool_use")


def _sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    files = {path.stem: path for path in (folder / "additional_chat_templates").glob("*.jinja")}
    if (main := folder / "chat_template.jinja").is_file():
        files["default"] = main
    if files:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    match config.get("chat_template"):
        case str(source):
            return {"default": source}
        case list(named):
            return {entry["name"]: entry["template"] for entry in named}
        case _:
            return {}


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """`chat_template_kwargs`, overridden by the request's own fields where those say something."""
    given = body.get("chat_template_kwargs")
    given = {} if given is None else given
    if body.get("chat_template") is not None or not isinstance(given, dict) or given.keys() & _NOT_FOR_REQUESTS:
        raise UncountableChat("chat_template_kwargs that the backend refuses, or a template in the request")
    effort = body.get("reasoning_effort")
    own = {
        "add_generation_prompt": body.get("add_generation_prompt", True),
        "continue_final_message": body.get("continue_final_message", False),
        "documents": body.get("documents"),
        "reasoning_effort": effort,
    }
    if effort is not None and "enable_thinking" not in given:
        own["enable_thinking"] = effort != "none"
    return given | {key: value for key, value in own.items() if value is not None}


def _render(template: _Compiled, messages: list[Message], variables: dict[str, Any]) -> str:
    if not variables.pop("continue_final_message"):
        return template.template.render(messages=messages, **variables)
    if variables["add_generation_prompt"] or not template.mentions_content:
        raise UncountableChat("continue_final_message where the template cannot continue a message")
    marked, final = _marked(messages)
    return _cut_at_mark(template.template.render(messages=marked, **variables), final)


def _marked(messages: list[Message]) -> tuple[list[Message], str]:
    """The messages with the mark after the last one's text, and that text."""
    marked = deepcopy(messages)
    content = marked[-1]["content"]
    if isinstance(content, str):
        marked[-1]["content"] = content + _CONTINUE_HERE
        return marked, content
    for part in reversed(content):
        if "text" in part:
            text: str = part["text"]
            part["text"] = text + _CONTINUE_HERE
            return marked, text
    raise UncountableChat("no text to continue")


def _cut_at_mark(rendered: str, final: str) -> str:
    if final.strip() not in rendered or _CONTINUE_HERE.strip() not in rendered:
        raise UncountableChat("the template dropped the message to be continued")
    at = rendered.rindex(_CONTINUE_HERE.strip())
    if rendered.startswith(_CONTINUE_HERE, at):
        return rendered[:at]
    return rendered[:at].rstrip()  # the template strips its messages


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
