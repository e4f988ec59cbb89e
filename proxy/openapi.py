"""The OpenAPI document with the hot routes, which are raw ASGI and so unknown to FastAPI.

It describes what the proxy itself reads and answers; the rest of a request is the engine's to judge, so further members
are allowed everywhere.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from proxy.controls import MAX_LATENCY_MS, MAX_N, MODES, OBJECTIVES
from proxy.handler import RELAYED_PATHS, SCALED_PATHS

_ERRORS = {
    "400": "The request is not valid; `param` names what is at fault.",
    "401": "No API key, or an unknown or expired one.",
    "403": "The API key does not allow this.",
    "404": "No such model.",
    "405": "Another method is meant.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "422": "The backend refused the request.",
    "429": "A limit of the API key; `Retry-After` tells when to try again.",
    "431": "The headers are too large.",
    "500": "The backend failed.",
    "502": "No backend could answer.",
    "503": "No backend can serve the request now, or none within its SLO.",
    "504": "The deadline came before there was an answer.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_MS = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_LATENCY_MS}
_SLO = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "latency_ms": _MS,
        "ttft_ms": _MS,
        "tpot_ms": _MS,
        "cost_usd": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6},
        "quality": {"type": "number", "minimum": 0, "maximum": 1},
        "objective": {"enum": list(OBJECTIVES)},
        "mode": {"enum": list(MODES)},
    },
}
_TTS = {
    "type": ["object", "null"],
    "description": "and the strategy's own parameters",
    "properties": {
        "strategy": {"type": "string", "minLength": 1, "maxLength": 100},
        "n": {"type": "integer", "minimum": 1, "maximum": MAX_N},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 10_000_000},
        "task": {"type": "string", "minLength": 1, "maxLength": 100},
        "progress": {"type": "boolean"},
    },
}
_MODEL = {"type": "string", "description": "a model's name, or `name@strategy:n`"}
_SHARED: dict[str, Any] = {
    "model": _MODEL,
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {"type": ["object", "null"]},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    "temperature": {"type": ["number", "null"]},
    "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 2**31},
    "cache_salt": {"type": ["string", "null"], "minLength": 1, "maxLength": 128},
    "slo": _SLO,
    "tts": _TTS,
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {"role": {"type": "string"}, "content": {"type": ["string", "array", "null"]}},
}
_CHAT = {
    **_SHARED,
    "messages": {"type": "array", "items": _MESSAGE},
    "max_completion_tokens": _SHARED["max_tokens"],
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "response_format": {"type": ["object", "null"]},
    "logprobs": {"type": ["boolean", "null"]},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
}
_TEXT = {"type": ["string", "array"]}
_BODIES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "/v1/chat/completions": ("A chat completion.", ["model", "messages"], _CHAT),
    "/v1/completions": ("A text completion.", ["model", "prompt"], {**_SHARED, "prompt": _TEXT}),
    "/v1/responses": ("A response; passed through.", ["model", "input"], {"model": _MODEL, "input": _TEXT}),
    "/v1/embeddings": ("Embeddings; passed through.", ["model", "input"], {"model": _MODEL, "input": _TEXT}),
    "/tokenize": ("A text's tokens; passed through.", ["model"], {"model": _MODEL, "prompt": {"type": "string"}}),
    "/detokenize": ("Tokens' text; passed through.", ["model"], {"model": _MODEL, "tokens": {"type": "array"}}),
    "/v1/plan": ("The ranked candidates for a chat completion; nothing is sent.", ["model", "messages"], _CHAT),
}
_HEADER_SCHEMAS: dict[str, dict[str, Any]] = {
    **{f"x-slo-{name.replace('_', '-')}": schema for name, schema in _SLO["properties"].items()},  # type: ignore[attr-defined]
    **{
        f"x-tts-{name.replace('_', '-')}": schema
        for name, schema in _TTS["properties"].items()  # type: ignore[attr-defined]
        if name != "progress"
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own, with what it does not know of."""
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in (*SCALED_PATHS, *RELAYED_PATHS, "/v1/plan"):
        found["paths"].setdefault(path, {})["post"] = _operation(path)
    found.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            if path not in ("/health", "/ready"):
                operation["security"] = [{"key": []}, {}]
                for status in ("401", "403", "429"):
                    operation["responses"].setdefault(status, _answer(_ERRORS[status], _ERROR))
            operation["responses"].pop("422", None)  # FastAPI's own; ours are 400
            operation["responses"].setdefault("400", _answer(_ERRORS["400"], _ERROR))
            if "{" in path:
                operation["responses"].setdefault("404", _answer("There is no such thing.", _ERROR))
            if path == "/ready":
                operation["responses"]["503"] = _answer("No backend serves.", {"type": "object"})
    return found


def _operation(path: str) -> dict[str, Any]:
    about, required, members = _BODIES[path]
    body = {"type": "object", "required": required, "properties": members}
    scaled = path in SCALED_PATHS or path == "/v1/plan"
    answers = {"200": _answer("The answer; an event stream where `stream` is true.", None)}
    return {
        "summary": about,
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": [
            {"name": name, "in": "header", "required": False, "schema": schema}
            for name, schema in (_HEADER_SCHEMAS.items() if scaled else ())
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {**answers, **{status: _answer(text, _ERROR) for status, text in _ERRORS.items()}},
    }


def _answer(text: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is not None:
        return {"description": text, "content": {"application/json": {"schema": schema}}}
    types = ("application/json", "text/event-stream")
    return {"description": text, "content": {kind: {} for kind in types}}
