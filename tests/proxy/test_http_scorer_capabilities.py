"""Reward and embedding models are asked for a score, once they serve and again when they come back."""

from __future__ import annotations

from typing import Any

import pytest
from http_rig import Fleet, RunningProxy, chat
from scripted_backend import until
from scripted_pooled import ScriptedPooled

PATHS = {"outcome": "/classify", "process": "/pooling", "reranker": "/score", "embedding": "/v1/embeddings"}
SCORER = {"outcome": "reward", "process": "process-reward", "reranker": "reranker"}
LOOSE = {"x_slo_latency_ms": "60000"}


def best_of_two(scorer: str) -> dict[str, Any]:
    return chat(tts={"strategy": "best-of-n", "n": 2, "scorer": scorer})


async def asked(proxy: RunningProxy, pooled: ScriptedPooled) -> dict[str, Any]:
    """What /ready says of it, once it has been asked."""
    await proxy.asked_what_it_can(pooled.name)
    state: dict[str, Any] = (await proxy.client.get("/ready")).json()["scorers"][pooled.name]
    return state


@pytest.mark.parametrize("kind", PATHS)
async def test_one_that_gives_scores_is_known_to(fleet: Fleet, kind: str) -> None:
    pooled = await fleet.pooled(kind)
    _, proxy = await fleet.one()

    state = await asked(proxy, pooled)

    assert (state["capabilities"], state["problem"]) == ({kind: True}, None)
    assert PATHS[kind] in [probe.path for probe in pooled.probes]


@pytest.mark.parametrize("kind", SCORER)
async def test_one_that_gives_none_is_named_to_a_client_that_insists(fleet: Fleet, kind: str) -> None:
    """A chat model in its place, say, which has no such path."""
    pooled = await fleet.pooled(kind)
    pooled.incapable, pooled.probe_status = {PATHS[kind]}, 404
    backend, proxy = await fleet.one()

    state = await asked(proxy, pooled)
    answer = await proxy.ask(best_of_two(SCORER[kind]))

    assert (state["capabilities"], state["problem"]) == ({kind: False}, f"{kind}: {PATHS[kind]} answered 404")
    assert answer.status_code == 400
    assert f"best-of-n needs scores, and its scorer gives none: {kind}: {PATHS[kind]}" in answer.text
    assert not backend.generations


async def test_one_that_does_not_say_may_be_tried(fleet: Fleet) -> None:
    """A 503 tells nothing of what it can."""
    pooled = await fleet.pooled("outcome")
    pooled.incapable, pooled.probe_status = {"/classify"}, 503
    _, proxy = await fleet.one()
    await until(lambda: sum(probe.path == "/classify" and probe.over.is_set() for probe in pooled.probes) > 0)

    answer = await proxy.ask(best_of_two("reward"))

    assert proxy.service.catalog.by_name["outcome"].capabilities is None
    assert answer.status_code == 200 and len(pooled.at("/classify")) > 0


async def test_it_is_asked_again_when_it_has_come_back(fleet: Fleet) -> None:
    """It may have been started otherwise."""
    pooled = await fleet.pooled("outcome")
    pooled.incapable, pooled.probe_status = {"/classify"}, 404
    _, proxy = await fleet.one()
    await asked(proxy, pooled)

    pooled.healthy = False
    await until(lambda: proxy.service.catalog.by_name["outcome"].capabilities is None)
    pooled.incapable, pooled.healthy = set(), True
    await asked(proxy, pooled)

    assert (await proxy.ask(best_of_two("reward"))).status_code == 200


async def test_one_that_could_not_is_asked_again_after_a_while(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model may not have been loaded yet."""
    monkeypatch.setattr("proxy.probe.UNABLE_S", 0.1)
    pooled = await fleet.pooled("outcome")
    pooled.incapable, pooled.probe_status = {"/classify"}, 404
    _, proxy = await fleet.one()
    await asked(proxy, pooled)

    pooled.incapable = set()
    await until(lambda: proxy.service.catalog.by_name["outcome"].problem is None)

    assert (await proxy.ask(best_of_two("reward"))).status_code == 200


async def test_under_another_kind_it_is_asked_anew(fleet: Fleet) -> None:
    pooled = await fleet.pooled("outcome")
    pooled.incapable, pooled.probe_status = {"/classify"}, 404
    await fleet.backend()
    proxy = await fleet.proxy(watched=True)
    await asked(proxy, pooled)

    pooled.kind = "process"
    fleet.write()
    assert await proxy.reloader.reload()

    assert (await asked(proxy, pooled))["capabilities"] == {"process": True}


async def test_who_names_no_scorer_gets_one_that_works(fleet: Fleet) -> None:
    outcome, process = await fleet.pooled("outcome"), await fleet.pooled("process")
    outcome.incapable, outcome.probe_status = {"/classify"}, 404
    _, proxy = await fleet.one()
    await asked(proxy, outcome)
    await asked(proxy, process)

    answer = await proxy.ask(chat(tts={"strategy": "best-of-n", "n": 2}))

    assert answer.status_code == 200, answer.text
    assert len(process.at("/pooling")) > 0


async def test_a_probe_is_nobodys_gpu_time(fleet: Fleet) -> None:
    pooled = await fleet.pooled("outcome")
    _, proxy = await fleet.one()
    await asked(proxy, pooled)
    assert proxy.service.catalog.by_name["outcome"].gpu_time.spent().attributed == 0
