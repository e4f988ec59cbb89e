import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

openai = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
VOTE = {"x-slo-latency-ms": "10000", "x-tts-strategy": "self-consistency", "x-tts-n": "3"}


class City(BaseModel):
    name: str
    population: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai, mode=mode)
    messages = [{"role": "user", "content": "Which city?"}]
    city = client.chat.completions.create(model="m", messages=messages, response_model=City, extra_headers=VOTE)
    assert (city.name, city.population) == ("Paris", 7), mode
    parts = client.chat.completions.create_partial(
        model="m", messages=messages, response_model=City, extra_headers=VOTE
    )
    assert list(parts)[-1].name == "Paris"
