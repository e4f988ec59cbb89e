"""What a strategy's generation is on the wire, and how a winner that went on from a text is answered."""

from typing import Any

import pytest
from http_rig import QUESTION, Fleet
from own_strategies import NAME, asks, gathered, pinned, ranked, strategy
from scripted_backend import says

from strategies.base import WHOLE, Context, Generation, Need, Outcome

FOUR = "\\boxed{4}"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


async def sent(fleet: Fleet, generation: Generation, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    """The body of a generation as the backend got it."""
    backend, proxy = await fleet.one(strategy(asks(generation)))
    answer = await proxy.ask(body, path)
    assert answer.status_code == 200, answer.text
    return backend.generations[0].json


def completion(**members: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "2 + 2 =", "tts": {"strategy": NAME}, **members}


async def test_turns_come_after_the_clients_messages(fleet: Fleet) -> None:
    body = await sent(fleet, Generation(turns=(("assistant", "5"), ("user", "Sure?"))), pinned(tools=TOOLS))

    said = [{"role": "assistant", "content": "5"}, {"role": "user", "content": "Sure?"}]
    assert body["messages"] == [*QUESTION, *said]
    assert body["tools"] == TOOLS, "it is the client's request still"
    assert "continue_final_message" not in body


async def test_a_prompt_of_its_own_takes_nothing_of_the_clients(fleet: Fleet) -> None:
    request = pinned(tools=TOOLS, response_format=SCHEMA, stop=["."], temperature=0.7, seed=5, logprobs=True, user="u")
    request["tts"]["max_tokens"] = 9
    body = await sent(fleet, Generation(prompt="Which is best?", max_tokens=50), request)

    stream = {"stream", "stream_options", "stream_interval"}
    assert {name: value for name, value in body.items() if name not in stream} == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which is best?"}],
        "max_completion_tokens": 50,
    }


async def test_the_clients_limit_does_not_cut_a_prompt_of_its_own(fleet: Fleet) -> None:
    request = pinned(max_tokens=90)
    request["tts"]["max_tokens"] = 9

    body = await sent(fleet, Generation(prompt="Which is best?"), request)

    assert not {"max_tokens", "max_completion_tokens"} & body.keys()


async def test_a_chat_goes_on_from_a_text(fleet: Fleet) -> None:
    body = await sent(fleet, Generation(continues="The answer is"), pinned())

    assert body["messages"] == [*QUESTION, {"role": "assistant", "content": "The answer is"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("prompt", ["2 + 2 =", ["2 + 2 ="]])
async def test_a_completion_goes_on_after_the_prompt(fleet: Fleet, prompt: object) -> None:
    body = await sent(fleet, Generation(continues=" The"), completion(prompt=prompt), "/v1/completions")

    assert body["prompt"] == "2 + 2 = The"


async def test_a_prompt_of_token_ids_cannot_be_gone_on_from(fleet: Fleet) -> None:
    own = strategy(asks(Generation(continues=" The")), needs=[Need.CONTINUATION])
    careless = strategy(asks(Generation(continues=" The")), name="careless")
    backend, proxy = await fleet.one(own, careless)

    for name in (NAME, "careless"):  # told beforehand, or where it shows
        answer = await proxy.ask(completion(prompt=[1, 2, 3], tts={"strategy": name}), "/v1/completions")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert backend.generations == []


async def test_a_chat_without_messages_is_the_clients_error(fleet: Fleet) -> None:
    _, proxy = await fleet.one(strategy(asks(Generation(turns=(("user", "Sure?"),)))))

    answer = await proxy.ask({"model": "m", "tts": {"strategy": NAME}})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


async def test_limits_and_temperature_are_the_generations(fleet: Fleet) -> None:
    generation = Generation(max_tokens=8, temperature=0.2)
    body = await sent(fleet, generation, pinned(max_tokens=90, min_tokens=20, temperature=1.0))

    assert (body["max_completion_tokens"], body["temperature"]) == (8, 0.2)
    assert not {"max_tokens", "min_tokens"} & body.keys()


async def test_a_completions_limit_has_its_endpoints_name(fleet: Fleet) -> None:
    body = await sent(fleet, Generation(max_tokens=8), completion(max_tokens=90), "/v1/completions")

    assert body["max_tokens"] == 8
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("own", "both"), [({}, []), ({"stop": "."}, ["."]), ({"stop": [".", "!"]}, [".", "!"]), ({"stop": None}, [])]
)
async def test_stops_are_put_beside_the_clients(fleet: Fleet, own: dict[str, Any], both: list[str]) -> None:
    body = await sent(fleet, Generation(stop=("\n\n",)), pinned(**own))

    assert body["stop"] == [*both, "\n\n"]
    assert body["include_stop_str_in_output"] is True


async def test_every_branch_has_a_seed_of_its_own(fleet: Fleet) -> None:
    same = Generation(temperature=0.5)
    backend, proxy = await fleet.one(strategy(asks(WHOLE, same, same, WHOLE, Generation(prompt="Which?"))))

    await proxy.ask(pinned(seed=100))

    seeds = [request.json.get("seed") for request in backend.generations]
    assert sorted(seeds[:4]) == [100, 101, 102, 103]
    assert seeds[4] is None


async def test_two_waves_of_one_branch_do_not_repeat_each_other(fleet: Fleet) -> None:
    async def run(context: Context) -> Outcome:
        await gathered(context, 1)
        return ranked(await gathered(context, 1))

    backend, proxy = await fleet.one(strategy(run, branches=1))

    await proxy.ask(pinned(seed=7))

    assert [request.json["seed"] for request in backend.generations] == [7, 8]


async def answered(fleet: Fleet, generations: list[Generation], plays: list[Any], *, stream: bool, path: str) -> Any:
    """The message (or text) that the client gets."""
    backend, proxy = await fleet.one(strategy(asks(*generations)))
    backend.will(*plays)
    body = pinned() if path.startswith("/v1/chat") else completion()
    if not stream:
        choice = (await proxy.ask(body, path)).json()["choices"][0]
        return choice.get("message") or choice["text"]
    events = await proxy.stream(body, path)
    assert events.done and events.finish_reasons == ["stop"]
    if not path.startswith("/v1/chat"):
        return events.text
    message: dict[str, Any] = {"role": "assistant"}
    for delta in (chunk["choices"][0]["delta"] for chunk in events.chunks if chunk.get("choices")):
        for key in ("reasoning", "reasoning_content", "content"):
            if delta.get(key):
                message[key] = message.get(key, "") + delta[key]
    return message


whole_or_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@whole_or_streamed
async def test_a_winner_that_went_on_is_answered_whole(fleet: Fleet, stream: bool) -> None:
    generations, plays = [Generation(continues="so it is ")], [says(FOUR)]

    message = await answered(fleet, generations, plays, stream=stream, path=CHAT)

    assert message == {"role": "assistant", "content": f"so it is {FOUR}"}


@whole_or_streamed
async def test_so_is_a_completion(fleet: Fleet, stream: bool) -> None:
    generations, plays = [Generation(continues=" so it is ")], [says(FOUR)]

    assert await answered(fleet, generations, plays, stream=stream, path=TEXT) == f" so it is {FOUR}"


@whole_or_streamed
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_thinking_that_went_on_stays_apart_under_the_engines_name(fleet: Fleet, stream: bool, name: str) -> None:
    generations, plays = [Generation(continues="<think>Two and")], [says(FOUR, extra={name: " two."})]

    message = await answered(fleet, generations, plays, stream=stream, path=CHAT)

    assert message == {"role": "assistant", name: "Two and two.", "content": FOUR}


@whole_or_streamed
async def test_an_answer_after_finished_thinking_keeps_it_apart(fleet: Fleet, stream: bool) -> None:
    """The second generation tells no thinking itself: that the engine tells it apart is known from the first."""
    generations = [WHOLE, Generation(continues="<think>Two and two.</think>So ")]
    plays = [says("5", extra={"reasoning": "Hm."}), says(FOUR)]

    message = await answered(fleet, generations, plays, stream=stream, path=CHAT)

    assert message == {"role": "assistant", "reasoning": "Two and two.", "content": f"So {FOUR}"}


@whole_or_streamed
async def test_an_engine_that_tells_no_thinking_apart_gets_none_told_apart(fleet: Fleet, stream: bool) -> None:
    generations, plays = [Generation(continues="<think>Two.</think>")], [says(FOUR)]

    message = await answered(fleet, generations, plays, stream=stream, path=CHAT)

    assert message == {"role": "assistant", "content": f"<think>Two.</think>{FOUR}"}


@whole_or_streamed
async def test_a_chat_of_the_strategys_own_answers_a_completion_as_one(fleet: Fleet, stream: bool) -> None:
    generations, plays = [Generation(prompt="Sum up")], [says(FOUR)]

    assert await answered(fleet, generations, plays, stream=stream, path=TEXT) == FOUR


async def test_nothing_is_sent_live_that_a_further_wave_may_replace(fleet: Fleet) -> None:
    """One branch at a time, streamed: the first draft is not the answer."""

    async def refine(context: Context) -> Outcome:
        (draft,) = await gathered(context, 1)
        return ranked(await gathered(context, [Generation(turns=(("assistant", draft.text), ("user", "Sure?")))]))

    backend, proxy = await fleet.one(strategy(refine, branches=1))
    backend.will(says("\\boxed{5}"), says(FOUR))

    assert (await proxy.stream(pinned())).text == FOUR
    assert [m["content"] for m in backend.generations[1].json["messages"]][1:] == ["\\boxed{5}", "Sure?"]
