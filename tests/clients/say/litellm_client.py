import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no look-up on the network

import litellm

litellm.telemetry = False
COMMON = {
    "model": "hosted_vllm/m",
    "api_base": f"{sys.argv[1]}/v1",
    "api_key": "unused",
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
    "num_retries": 0,
}
VOTE = {"x-slo-latency-ms": "10000", "x-tts-strategy": "self-consistency", "x-tts-n": "3"}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}

assert "4" in litellm.completion(**COMMON, extra_headers=VOTE).choices[0].message.content
parts = litellm.completion(**COMMON, extra_headers=VOTE, stream=True)
assert "4" in "".join(part.choices[0].delta.content or "" for part in parts)
called = litellm.completion(**COMMON, tools=[TOOL], extra_headers={"x-slo-latency-ms": "10000"})
assert called.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'
form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
assert litellm.completion(**COMMON, response_format=form).choices[0].message.content == '{"name": "Paris"}'
