import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

VOTE = {"x-slo-latency-ms": "10000", "x-tts-strategy": "self-consistency", "x-tts-n": "3"}
chat = ChatOpenAI(model="m", base_url=f"{sys.argv[1]}/v1", api_key="unused", default_headers=VOTE, max_retries=0)
plain = ChatOpenAI(
    model="m", base_url=f"{sys.argv[1]}/v1", api_key="unused", default_headers={"x-slo-latency-ms": "10000"}
)

assert "4" in chat.invoke("What is 2 + 2?").content
assert "4" in "".join(str(chunk.content) for chunk in chat.stream("What is 2 + 2?"))


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


called = plain.bind_tools([weather]).invoke("What is the weather in Paris?")
assert called.tool_calls[0]["args"] == {"city": "Paris"}


class City(BaseModel):
    name: str
    population: int


assert plain.with_structured_output(City, method="json_schema").invoke("Which city?") == City(
    name="Paris", population=7
)
