from http_rig import Fleet, vote
from scripted_backend import says


async def test_the_most_frequent_answer_wins(fleet: Fleet) -> None:
    backend, proxy = await fleet.one()
    backend.will(says("so \\boxed{5}"), says("hence \\boxed{4}"), says("thus \\boxed{4}"))

    answer = await proxy.ask(vote(3))

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] in ("hence \\boxed{4}", "thus \\boxed{4}")
    assert answer.json()["usage"]["tts"]["agreement"] == 2 / 3
