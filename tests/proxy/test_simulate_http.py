"""`paretoproxy simulate`: vLLM's HTTP as clients and the proxy use it, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from http_rig import Events
from simulation_rig import QUESTIONS, Served, chat, make_profile, served, write_config

from profiler import profile_file
from profiler.profile_file import ProfileError
from profiler.simulation.server import ServerError
from profiler.simulation.tokenizer import tokens_of
from proxy import load_metrics
from proxy.config import ConfigError, load
from proxy.simulated_fleet import Simulation, simulated_backends
from strategies.answers.extract import extract

STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(write_config(tmp_path, "a", "b")) as rig:
        yield rig


async def test_the_greedy_answer_is_the_stored_one_to_the_token(sim: Served) -> None:
    answer = (await sim.chat(temperature=0)).json()
    stored = QUESTIONS[0].greedy
    [choice] = answer["choices"]
    assert extract(choice["message"]["content"]) == stored.answer
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    usage = {"prompt_tokens": QUESTIONS[0].prompt_tokens, "completion_tokens": stored.tokens}
    assert {key: answer["usage"][key] for key in usage} == usage
    assert len(tokens_of(choice["message"]["content"])) == stored.tokens
    assert answer["object"] == "chat.completion"


async def test_a_stream_has_the_same_text_and_usage_in_every_chunk(sim: Served) -> None:
    whole = (await sim.chat(temperature=0)).json()
    response = await sim.chat(temperature=0, **STREAM, stream_interval=16)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    assert response.text.endswith("data: [DONE]\n\n")
    assert "".join(_said(chunk) for chunk in events) == whole["choices"][0]["message"]["content"]
    counts = [chunk["usage"]["completion_tokens"] for chunk in events]
    tokens = QUESTIONS[0].greedy.tokens
    assert counts[:4] == [0, 1, 17, 33] and counts[-2:] == [tokens, tokens]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"] == []
    assert [c["finish_reason"] for chunk in events for c in chunk["choices"]][-1] == "stop"


def _said(chunk: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


async def test_usage_is_told_only_where_asked_for(sim: Served) -> None:
    plain = Events((await sim.chat(stream=True)).text)
    at_end = Events((await sim.chat(stream=True, stream_options={"include_usage": True})).text)
    assert plain.usage is None and plain.done
    assert at_end.usage is not None and at_end.usage["completion_tokens"] > 0


async def test_n_choices_are_samples_of_their_own_and_a_seed_repeats_them(sim: Served) -> None:
    first, again, other = [
        [choice["message"]["content"] for choice in (await sim.chat(n=16, seed=seed)).json()["choices"]]
        for seed in (5, 5, 6)
    ]
    assert first == again != other
    assert len({len(text) for text in first}) > 1
    stored = {sample.answer for sample in QUESTIONS[0].samples}
    assert {extract(text) for text in first} <= stored


async def test_max_tokens_cuts(sim: Served) -> None:
    answer = (await sim.chat(temperature=0, max_completion_tokens=20)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 20
    assert extract(answer["choices"][0]["message"]["content"]) is None


async def test_profilers_ask_by_token_ids_and_get_exactly_what_they_ask_for(sim: Served) -> None:
    asked = {"prompt": [7, 8, 9] * 30, "max_tokens": 700, "min_tokens": 700, "ignore_eos": True}
    answer = (await sim.complete(**asked)).json()
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": 90, "completion_tokens": 700}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(tokens_of(answer["choices"][0]["text"])) == 700


async def test_several_prompts_have_a_choice_each(sim: Served) -> None:
    answer = (await sim.complete(prompt=["one", "two"], n=2)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 4 * 16


async def test_stop_strings_end_an_answer_before_they_appear(sim: Served) -> None:
    whole = (await sim.chat(temperature=0)).json()["choices"][0]["message"]["content"]
    for stop, kept in (("</think>", False), (["never", "answer"], True)):
        asked = {"temperature": 0, "stop": stop, "include_stop_str_in_output": kept}
        [choice] = (await sim.chat(**asked)).json()["choices"]
        marker = stop if isinstance(stop, str) else stop[-1]
        at = whole.index(marker) + (len(marker) if kept else 0)
        assert choice["message"]["content"] == whole[:at]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", marker)
        streamed = Events((await sim.chat(**asked, **STREAM)).text.replace('"usage":{', '"told":{'))
        assert streamed.text == whole[:at]


async def test_logprobs_cover_the_text(sim: Served) -> None:
    [choice] = (await sim.chat(temperature=0, logprobs=True, top_logprobs=3, max_tokens=40)).json()["choices"]
    told = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in told) == choice["message"]["content"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3 for entry in told)
    assert all(entry["top_logprobs"][0]["token"] == entry["token"] for entry in told)
    [choice] = (await sim.complete(logprobs=1)).json()["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == 16
    assert choice["logprobs"]["text_offset"][:2] == [0, len(choice["logprobs"]["tokens"][0])]


async def test_tokens_there_and_back(sim: Served) -> None:
    text = "What is 2 + 2?"
    told = (await sim.client.post("/tokenize", json={"model": "m", "prompt": text})).json()
    assert told["count"] == len(told["tokens"]) == len(tokens_of(text))
    back = (await sim.client.post("/detokenize", json={"model": "m", "tokens": told["tokens"]})).json()
    assert back == {"prompt": text}
    asked = (await sim.client.post("/tokenize", json=chat())).json()
    assert 0 < len(asked["tokens"]) < asked["count"], "the model's own tokenizer counted, not ours"
    assert (
        asked["count"] == QUESTIONS[0].prompt_tokens == (await sim.chat(max_tokens=1)).json()["usage"]["prompt_tokens"]
    )


async def test_side_routes(sim: Served) -> None:
    assert (await sim.client.get("/health")).status_code == 200
    assert (await sim.client.get("/version")).json()["version"].startswith("0.26")
    [card] = (await sim.client.get("/v1/models")).json()["data"]
    assert (card["id"], card["max_model_len"]) == ("m", sim.backend.engine.spec.max_model_len)
    page = (await sim.client.get("/metrics")).text
    assert load_metrics.kv_capacity_tokens(page) == 65_536
    assert load_metrics.parse(page).running == 0


async def test_metrics_tell_what_runs(sim: Served) -> None:
    running = [asyncio.create_task(sim.complete(max_tokens=900, ignore_eos=True)) for _ in range(3)]
    async with asyncio.timeout(5):
        while load_metrics.parse((await sim.client.get("/metrics")).text).running < 3:
            await asyncio.sleep(0.005)
    counters = load_metrics.parse_counters((await sim.client.get("/metrics")).text)
    assert 0 < counters.generated < 2700
    await asyncio.gather(*running)
    page = (await sim.client.get("/metrics")).text
    assert load_metrics.parse_counters(page).generated == 2700
    assert "spec_decode" not in page


@pytest.mark.parametrize(
    ("members", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"max_tokens": 10**6}, 400, "max_tokens"),
        ({"n": 1000}, 400, "n"),
        ({"temperature": "hot"}, 400, None),
    ],
)
async def test_errors_are_vllms(sim: Served, members: dict[str, Any], status: int, param: str | None) -> None:
    answer = await sim.chat(**members)
    assert answer.status_code == status
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (status, param)
    assert (await sim.chat()).status_code == 200, "the connection still serves"


async def test_paths_and_methods_that_are_not_there(sim: Served) -> None:
    assert (await sim.client.get("/nowhere")).status_code == 404
    assert (await sim.client.get("/v1/completions")).status_code == 405
    assert (await sim.client.post("/v1/completions", content=b"{")).status_code == 400


async def test_a_client_that_leaves_frees_its_place(sim: Served) -> None:
    body = {"model": "m", "prompt": "x", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    async with sim.client.stream("POST", "/v1/completions", json=body) as response:
        await anext(response.aiter_bytes())
        assert sim.backend.engine.running == 1
    async with asyncio.timeout(2):
        while sim.backend.engine.running:
            await asyncio.sleep(0.002)
    assert sim.backend.running == {}
    assert sim.backend.engine.totals()[0] < 1900


async def test_a_full_queue_answers_503(tmp_path: Path) -> None:
    launch = {"model": "x", "args": {"max-num-seqs": 1}}
    async with served(write_config(tmp_path, launch=launch), Simulation(noise=False, max_waiting=2)) as sim:
        answers = await asyncio.gather(*(sim.complete(max_tokens=100, ignore_eos=True) for _ in range(8)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200 and statuses[-1] == 503
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert "queue is full" in refused.json()["error"]["message"]
        assert sim.backend.running == {}


async def test_the_openai_client_works_unchanged(sim: Served) -> None:
    http = openai.DefaultAsyncHttpxClient(verify=False)
    url = f"{sim.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client:
        messages: Any = chat()["messages"]
        whole = await client.chat.completions.create(model="m", messages=messages, temperature=0)
        stream = await client.chat.completions.create(
            model="m", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        completion = await client.completions.create(model="m", prompt="x", max_tokens=3, logprobs=1)
        assert completion.choices[0].logprobs is not None
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=messages)


# -- faults --


async def test_slow(sim: Served) -> None:
    async def took() -> float:
        began = asyncio.get_running_loop().time()
        await sim.complete(max_tokens=200, ignore_eos=True)
        return asyncio.get_running_loop().time() - began

    before = await took()
    assert (await sim.fault("slow", factor=4))["slow"] == 4
    assert await took() > 2 * before
    await sim.fault("revive")
    assert await took() < 2 * before


async def test_a_stall_keeps_bytes_back_until_it_is_over(sim: Served) -> None:
    await sim.fault("stall")
    asking = asyncio.create_task(sim.chat(temperature=0, **STREAM))
    async with asyncio.timeout(5):
        while not (sim.backend.running and not sim.backend.engine.running):
            await asyncio.sleep(0.01)
    assert not asking.done()
    assert (await sim.client.get("/health")).status_code == 200
    await sim.fault("revive")
    assert (await asking).text.endswith("data: [DONE]\n\n")


async def test_a_cut_breaks_so_many_streams(sim: Served) -> None:
    await sim.fault("cut", after_chunks=3, streams=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await sim.chat(**STREAM)
    assert (await sim.chat(**STREAM)).status_code == 200


async def test_death_and_return(sim: Served) -> None:
    asking = asyncio.create_task(sim.chat(**STREAM))
    async with asyncio.timeout(5):
        while not sim.backend.engine.running:
            await asyncio.sleep(0.002)
    async with httpx.AsyncClient(base_url=sim.urls["b"], trust_env=False, verify=False) as other:
        told = await other.post("/simulate/fault", json={"kind": "die", "backend": "a"})
        assert told.json()["dead"] is True
        with pytest.raises(httpx.HTTPError):
            await asking
        with pytest.raises(httpx.ConnectError):
            await sim.chat()
        await other.post("/simulate/fault", json={"kind": "revive", "backend": "a"})
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await sim.chat()).status_code == 200
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.01)


async def test_a_fault_may_end_by_itself(sim: Served) -> None:
    await sim.fault("slow", factor=2, for_s=0.02)
    await asyncio.sleep(0.1)
    assert sim.backend.faults.slow == 1.0


async def test_lies_in_metrics(sim: Served) -> None:
    await sim.fault("lie", metrics={"num_requests_running": 77})
    assert load_metrics.parse((await sim.client.get("/metrics")).text).running == 77


async def test_a_wrong_fault_says_what_there_is(sim: Served) -> None:
    for body in ({"kind": "explode"}, {"kind": "slow", "factor": 0}, {"kind": "die", "backend": "z"}, {"kimd": "die"}):
        answer = await sim.client.post("/simulate/fault", json=body)
        assert answer.status_code == 400, body
    assert "there are a, b" in (await sim.client.post("/simulate/fault", json={"kind": "die", "backend": "z"})).text


# -- configuration --


async def test_a_backend_without_a_profile_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, profile=None)
    with pytest.raises(ConfigError, match=r"backend a has no profile.*paretoproxy profile"):
        async with served(path):
            pass
    with pytest.raises(ConfigError, match="cannot read the profile"):
        async with served(write_config(tmp_path, profile="absent.json")):
            pass


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    async with served(path):
        with pytest.raises(ServerError, match="backend a: cannot listen on"):
            async with served(path):
                pass


def test_limits_come_from_launch(tmp_path: Path) -> None:
    args = {"max-num-seqs": 7, "max-model-len": 512, "max_num_batched_tokens": 300, "enable-prefix-caching": False}
    from profiler.simulation.clock import VirtualClock

    path = write_config(tmp_path, launch={"model": "x", "args": args})
    spec = simulated_backends(load(path, {}), VirtualClock())["a"].engine.spec
    assert (spec.max_num_seqs, spec.max_model_len, spec.max_num_batched_tokens) == (7, 512, 300)
    assert (spec.prefix_caching, spec.sigma, spec.kv_tokens) == (False, 0.03, 65_536)


def test_what_launch_does_not_say_is_as_it_was_measured(tmp_path: Path) -> None:
    from profiler.simulation.clock import VirtualClock

    path = write_config(tmp_path, launch={"model": "x", "args": {}})
    (profile,) = {Path(b.profile) for b in load(path, {}).backends() if b.name == "a" and b.profile is not None}
    told = profile_file.read(profile)
    environment = {**told.environment, "max_num_batched_tokens": 8192}
    profile_file.write(msgspec.structs.replace(told, environment=environment), profile)
    assert simulated_backends(load(path, {}), VirtualClock())["a"].engine.spec.max_num_batched_tokens == 8192


def test_what_is_no_profile_is_a_profile_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ProfileError):
        profile_file.read(tmp_path / "x.json")


# -- the profiler, against it --


async def test_the_profiler_finds_the_profile_again(tmp_path: Path) -> None:
    path = write_config(tmp_path, launch={"model": "x", "args": {"max-num-seqs": 8, "max-model-len": 512}})
    true = make_profile().step_time
    async with served(path) as sim:
        out = tmp_path / "found"
        out.mkdir()
        await _profile(sim, out)
        found = profile_file.read(next(out.glob("*.json"))).step_time
    for batch in (1, 4, 8):
        assert float(found.g_s(batch)) == pytest.approx(float(true.g_s(batch)), rel=0.25)


async def _profile(sim: Served, out: Path) -> None:
    from proxy.backend import open_backend
    from proxy.profiling import Job, profile

    [config] = list(sim.config.backends())
    backend = open_backend(config, "m", None, asyncio.get_running_loop().time)
    try:
        await profile(Job(backend, out / "a.json", 4.0), lambda measured, made: None)
    finally:
        await backend.pool.aclose()
