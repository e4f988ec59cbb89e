import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

llm = OpenAILike(
    model="m",
    api_base=f"{sys.argv[1]}/v1",
    api_key="unused",
    is_chat_model=True,
    is_function_calling_model=True,
    default_headers={"x-slo-latency-ms": "10000"},
    max_retries=0,
)
ASKED = [ChatMessage(role="user", content="What is 2 + 2?")]
VOTE = {"extra_body": {"tts": {"strategy": "self-consistency", "n": 3}}}

assert "4" in llm.chat(ASKED, **VOTE).message.content
assert "4" in "".join(part.delta or "" for part in llm.stream_chat(ASKED, **VOTE))


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


called = llm.chat_with_tools([FunctionTool.from_defaults(weather)], "What is the weather in Paris?")
assert llm.get_tool_calls_from_response(called)[0].tool_kwargs == {"city": "Paris"}


class City(BaseModel):
    """A city."""

    name: str
    population: int


found = llm.as_structured_llm(City).chat([ChatMessage(role="user", content="Which city?")])
assert found.raw == City(name="Paris", population=7)
