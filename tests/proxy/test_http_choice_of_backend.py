"""Which of two backends a pass-through request goes to, and what happens when that one fails."""

import pytest
from http_rig import Fleet, RunningProxy, chat
from scripted_backend import Play, ScriptedBackend, answers, closes, resets, says


async def two_where_a_is_first(fleet: Fleet) -> tuple[ScriptedBackend, ScriptedBackend, RunningProxy]:
    a, b = await fleet.backend("a"), await fleet.backend("b")
    b.metrics["num_requests_running"] = 50.0
    proxy = await fleet.proxy()
    await proxy.sees_load("b", 50)
    return a, b, proxy


async def test_the_less_loaded_backend_is_chosen(fleet: Fleet) -> None:
    a, b, proxy = await two_where_a_is_first(fleet)

    for _ in range(3):
        await proxy.ask()

    assert (len(a.generations), len(b.generations)) == (3, 0)


@pytest.mark.parametrize(
    "failure", [closes(), resets(), answers(502, b"{}"), answers(503, b"{}")], ids=["close", "reset", "502", "503"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_another_backend_is_tried_while_the_client_has_no_byte(fleet: Fleet, failure: Play, stream: bool) -> None:
    a, b, proxy = await two_where_a_is_first(fleet)
    a.will(failure)
    b.will(says("from b", tokens=1))

    answer = await proxy.ask(chat(stream=stream))

    assert (answer.status_code, answer.headers["x-tts-backend"]) == (200, "b")
    assert "from b" in answer.text
    trace = await proxy.trace()
    assert [(branch["backend"], branch["outcome"]) for branch in trace["branches"]] == [
        ("a", "failed"),
        ("b", "completed"),
    ]


async def test_a_backend_that_refuses_connections_is_passed_over(fleet: Fleet) -> None:
    fleet.refusing("a")
    b = await fleet.backend("b")
    b.metrics["num_requests_running"] = 50.0
    proxy = await fleet.proxy()
    await proxy.sees_load("b", 50)
    proxy.service.catalog.backends[0].health.serving = True  # it went away just after a probe

    answer = await proxy.ask()

    assert (answer.status_code, answer.headers["x-tts-backend"]) == (200, "b")


async def test_502_where_every_backend_fails(fleet: Fleet) -> None:
    a, b, proxy = await fleet.two()
    a.otherwise, b.otherwise = closes(), resets()

    answer = await proxy.ask()

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    assert min(len(a.generations), len(b.generations)) == 1, "the other one is tried before the same once more"
    assert len(a.generations) + len(b.generations) == 3, "reliability.retries.max_attempts"
    assert (await proxy.trace())["outcome"] == "failed"


async def test_the_last_backends_503_is_relayed(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(answers(503, b'{"error":{"message":"sleeping"}}', headers="retry-after: 9\r\n"))

    answer = await proxy.ask()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
    assert answer.json() == {"error": {"message": "sleeping"}}


async def test_503_where_none_is_healthy(fleet: Fleet) -> None:
    backend = await fleet.backend()
    backend.healthy = False
    proxy = await fleet.proxy()
    await proxy.probed()

    answer = await proxy.ask()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "no_backend"
    assert backend.generations == []
