"""An engine that answers as a capable model would: calls the tool it is given, keeps to the schema it is given, else
says four. vLLM's dialect, as far as clients meet it through the proxy.

    python engine.py PORT
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

FOUR = "2 + 2 is \\boxed{4}"
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
app = FastAPI()


def example(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """The smallest value that a JSON schema allows, Paris and 7 in it."""
    root = root or schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return example(root["$defs"][name], root)
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example(schema[key][0], root)
    match schema.get("type"):
        case "object":
            return {name: example(part, root) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [example(schema.get("items", {}), root)]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case "null":
            return None
    return "Paris"


def message(body: dict[str, Any]) -> dict[str, Any]:
    """What the model says: {content} or {tool_calls}."""
    tools, last = body.get("tools") or [], body["messages"][-1]
    if tools and (last["role"] != "tool" or body.get("tool_choice") not in (None, "auto", "none")):
        wanted = body.get("tool_choice")
        name = wanted["function"]["name"] if isinstance(wanted, dict) else tools[-1]["function"]["name"]
        tool = next(tool["function"] for tool in tools if tool["function"]["name"] == name)
        arguments = json.dumps(example(tool.get("parameters") or {"type": "object"}))
        return {
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}]
        }
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return {"content": json.dumps(example(form["json_schema"]["schema"]))}
    return {"content": "It is sunny in Paris." if last["role"] == "tool" else FOUR}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.json()
    said, count = message(body), body.get("n") or 1
    finish = "tool_calls" if "tool_calls" in said else "stop"
    head = {"id": "chatcmpl-1", "created": int(time.time()), "model": body["model"]}
    if not body.get("stream"):
        whole = {"role": "assistant", "content": None, **said}
        choices = [{"index": i, "message": whole, "finish_reason": finish} for i in range(count)]
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": USAGE})
    return StreamingResponse(events(body, head, said, finish), media_type="text/event-stream")


async def events(body: dict[str, Any], head: dict[str, Any], said: dict[str, Any], finish: str) -> AsyncIterator[str]:
    options = body.get("stream_options") or {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        usage = {"usage": USAGE} if options.get("continuous_usage_stats") else {}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice], **usage})}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    if "tool_calls" in said:
        yield chunk({"tool_calls": [{"index": 0, **said["tool_calls"][0]}]})
    else:
        for word in said["content"].split(" "):
            yield chunk({"content": word + " "})
    yield chunk({}, finish)
    if options.get("include_usage"):
        last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
        yield f"data: {json.dumps(last)}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/v1/responses")
async def responses(request: Request) -> Response:
    body = await request.json()
    text = {"type": "output_text", "text": FOUR, "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    usage = {
        "input_tokens": 9,
        "output_tokens": 5,
        "total_tokens": 14,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    whole = {
        "id": "resp_1",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": body["model"],
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }
    return JSONResponse(whole)


@app.get("/health")
async def health() -> Response:
    return Response()


@app.get("/metrics")
async def metrics() -> Response:
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return PlainTextResponse("".join(f'vllm:{name}{{engine="0"}} 0.0\n' for name in names))


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 8192}]}


@app.post("/tokenize")
async def tokenize() -> dict[str, Any]:
    return {"count": 9, "max_model_len": 8192, "tokens": [0] * 9}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
