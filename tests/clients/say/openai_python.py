import sys

from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
SLO = {"x-slo-latency-ms": "10000"}
VOTE = {**SLO, "x-tts-strategy": "self-consistency", "x-tts-n": "3"}

answer = client.chat.completions.create(model="m", messages=QUESTION, extra_headers=VOTE)
assert "4" in answer.choices[0].message.content
assert answer.usage.tts["slo_status"] == "met" and answer.usage.tts["n"] == 3

with client.chat.completions.create(
    model="m", messages=QUESTION, extra_headers=VOTE, stream=True, stream_options={"include_usage": True}
) as stream:
    chunks = list(stream)
assert "4" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert chunks[-1].usage.tts["slo_status"] == "met"

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
called = client.chat.completions.create(model="m", messages=QUESTION, tools=[TOOL], extra_headers=SLO)
call = called.choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')


class City(BaseModel):
    name: str
    population: int


parsed = client.chat.completions.parse(model="m", messages=QUESTION, response_format=City, extra_headers=VOTE)
assert parsed.choices[0].message.parsed == City(name="Paris", population=7)

response = client.responses.create(model="m", input="What is 2 + 2?")
assert "4" in response.output_text
assert [model.id for model in client.models.list()] == ["m"]
