"""Chat templates get what vLLM gives them, and render as transformers renders them."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from proxy.chat_messages import UncountableChat
from proxy.chat_template import ChatTemplate
from proxy.content_format import content_format

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
PARTS = "{% for m in messages %}{% for c in m['content'] %}[{{ c.text }}]{% endfor %}{% endfor %}"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def render(source: str, *messages: dict[str, Any], **body: Any) -> str:
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}).render({"messages": list(messages)} | body)


def dumped(name: str, **body: Any) -> Any:
    """What the template sees under a name."""
    return json.loads(render("{{ " + name + " | tojson }}", user("hi"), **body))


class TestMessages:
    def test_the_generation_prompt_is_added_unless_refused(self) -> None:
        assert render(CHATML, user("hi")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert render(CHATML, user("hi"), add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"

    def test_text_parts_become_lines_for_a_template_that_takes_strings(self) -> None:
        parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]
        assert render("{{ messages[0].content }}", user(parts)) == "a\nb\nc"

    def test_plain_text_becomes_a_part_for_a_template_that_takes_parts(self) -> None:
        assert render(PARTS, user("a"), user([{"type": "text", "text": "b"}])) == "[a][b]"

    def test_no_content_is_empty(self) -> None:
        assert render("{{ messages[0].content }}|", {"role": "assistant"}) == "|"

    @pytest.mark.parametrize(
        "part", [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "input_audio"}, {"text": "a"}, 1]
    )
    def test_media_cannot_be_counted(self, part: Any) -> None:
        with pytest.raises(UncountableChat):
            render(CHATML, user([part]))

    def test_arguments_of_tool_calls_become_objects(self) -> None:
        def call(arguments: Any) -> dict[str, Any]:
            return {"type": "function", "function": {"name": "f", "arguments": arguments}}

        message = {"role": "assistant", "tool_calls": [call(a) for a in ('{"x": 1}', "", "[]", "{", None)]}
        source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}"
        assert render(source, message) == '{"x": 1}{}{}{}{}'
        assert message["tool_calls"][0]["function"]["arguments"] == '{"x": 1}', "the request is not changed"

    def test_tool_calls_have_the_keys_of_openais_types_in_their_order(self) -> None:
        function = {"name": "f", "arguments": "{}"}
        call = {"index": 0, "type": "function", "function": function, "id": "1"}
        seen = render("{{ messages[0].tool_calls | tojson }}", {"role": "assistant", "tool_calls": [call]})
        assert seen == '[{"id": "1", "function": {"arguments": {}, "name": "f"}, "type": "function"}]'

    def test_reasoning_is_seen_under_both_names(self) -> None:
        source = "{{ messages[0].reasoning }} {{ messages[0].reasoning_content }}"
        assert render(source, {"role": "assistant", "content": "4", "reasoning_content": "2+2"}) == "2+2 2+2"

    def test_a_developer_message_becomes_the_one_system_message(self) -> None:
        messages = [user("q"), {"role": "developer", "content": "b"}, {"role": "system", "content": "c"}]
        source = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
        assert render(source, *messages) == "system:b\n\nc;user:q;"
        knowing = source + "{# 'developer' #}"
        assert render(knowing, *messages) == "user:q;developer:b;system:c;"


class TestArguments:
    def test_tools_are_seen_as_vllm_dumps_them(self) -> None:
        tool = {"function": {"parameters": {"b": 1, "a": 2}, "name": "f", "extra": 1}, "type": "function"}
        source = "{{ tools | tojson }}"
        assert render(source, user("hi"), tools=[tool]) == (
            '[{"type": "function", "function": {"name": "f", "description": null, "parameters": {"b": 1, "a": 2}}}]'
        )

    def test_a_template_for_tools_is_used_where_there_is_one(self) -> None:
        template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
        body = {"messages": [user("hi")]}
        assert template.render(body) == "plain"
        assert template.render(body | {"tools": [{"function": {"name": "f"}}]}) == "tools"

    def test_extra_variables_reach_the_template(self) -> None:
        assert dumped("enable_thinking", chat_template_kwargs={"enable_thinking": False}) is False
        assert dumped("bos_token") == "<s>"
        assert dumped("documents", documents=[{"text": "d"}]) == [{"text": "d"}]

    def test_reasoning_effort_turns_thinking_on_or_off(self) -> None:
        assert dumped("[reasoning_effort, enable_thinking]", reasoning_effort="low") == ["low", True]
        assert dumped("enable_thinking", reasoning_effort="none") is False
        kept = {"enable_thinking": True}
        assert dumped("enable_thinking", reasoning_effort="none", chat_template_kwargs=kept) is True

    @pytest.mark.parametrize(
        "body",
        [
            {"chat_template": "{{ 1 }}"},
            {"chat_template_kwargs": {"tokenize": True}},
            {"chat_template_kwargs": []},
            {"tools": []},
            {"tools": [{"type": "custom"}]},
        ],
    )
    def test_what_the_backend_refuses_has_no_prompt(self, body: dict[str, Any]) -> None:
        with pytest.raises(UncountableChat):
            render(CHATML, user("hi"), **body)


class TestContinuing:
    ANSWER = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer "})

    def test_the_final_message_stays_open(self) -> None:
        prompt = render(CHATML, *self.ANSWER, add_generation_prompt=False, continue_final_message=True)
        assert prompt.endswith("<|im_start|>assistant\nThe answer ")

    def test_a_template_that_strips_is_followed(self) -> None:
        source = "{% for m in messages %}{{ m.content | trim }};{% endfor %}"
        prompt = render(source, *self.ANSWER, add_generation_prompt=False, continue_final_message=True)
        assert prompt == "q;The answer"

    def test_it_excludes_the_generation_prompt(self) -> None:
        with pytest.raises(UncountableChat):
            render(CHATML, *self.ANSWER, continue_final_message=True)


class TestRendering:
    def test_blocks_take_their_line_with_them(self) -> None:
        assert render("a\n  {% if true %}\nb\n  {% endif %}\nc", user("hi")) == "a\nb\nc"

    def test_json_is_not_escaped_for_html(self) -> None:
        assert render("{{ messages[0].content | tojson }}", user("<ü>")) == '"<ü>"'

    def test_generation_marks_and_loop_controls_are_known(self) -> None:
        source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
        assert render(source, user("a"), user("b")) == "a"

    def test_a_template_can_refuse(self) -> None:
        with pytest.raises(UncountableChat, match="no cats"):
            render("{{ raise_exception('no cats') }}", user("hi"))

    def test_a_template_knows_the_date(self) -> None:
        assert render("{{ strftime_now('%Y') }}", user("hi")).isdigit()

    def test_a_template_is_sandboxed(self) -> None:
        with pytest.raises(UncountableChat):
            render("{{ messages.append(1) }}", user("hi"))


class TestFiles:
    def test_the_file_beside_wins_over_the_configuration(self, tmp_path: Path) -> None:
        assert ChatTemplate.from_folder(tmp_path) is None
        config = {"chat_template": "{{ eos_token }}", "eos_token": {"content": "</s>"}, "pad_token": None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert self.rendered(tmp_path) == "</s>"
        (tmp_path / "chat_template.jinja").write_text("beside")
        assert self.rendered(tmp_path) == "beside"

    def test_named_templates(self, tmp_path: Path) -> None:
        config = {"chat_template": [{"name": "default", "template": "d"}, {"name": "rag", "template": "{% r %}"}]}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert self.rendered(tmp_path) == "d"

    @staticmethod
    def rendered(folder: Path) -> str:
        template = ChatTemplate.from_folder(folder)
        assert template is not None
        return template.render({"messages": [user("hi")]})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, "string"),
        (PARTS, "openai"),
        ("{% for m in messages[1:] %}{% for c in m.content | list %}{% endfor %}{% endfor %}", "openai"),
        ("{% set ms = messages %}{% for m in ms %}{% for c in m.content %}{% endfor %}{% endfor %}", "openai"),
        (
            "{% for m in messages %}{% set content = m.content %}{% for c in content %}{% endfor %}{% endfor %}",
            "openai",
        ),
        ("{% for m in messages %}{% for t in m.tool_calls %}{% endfor %}{% endfor %}", "string"),
        (
            "{% macro show(x) %}{% for c in x %}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            "openai",
        ),
        (
            "{% macro show(content) %}{% for c in content %}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.tool_calls) }}{% endfor %}",
            "string",
        ),
        ("{% set ns.ms = messages %}{% for m in messages %}{% for c in m.content %}{% endfor %}{% endfor %}", "string"),
    ],
)
def test_the_content_format_is_read_off_the_loops(source: str, expected: str) -> None:
    assert content_format(Environment().parse(source)) == expected
