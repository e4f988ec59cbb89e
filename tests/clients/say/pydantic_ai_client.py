import asyncio
import sys

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

openai = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=openai))
SLO = {"x-slo-latency-ms": "10000"}
vote = ModelSettings(extra_headers={**SLO, "x-tts-strategy": "self-consistency", "x-tts-n": "3"})


class City(BaseModel):
    name: str
    population: int


async def main() -> None:
    agent = Agent(model, model_settings=vote)
    assert "4" in (await agent.run("What is 2 + 2?")).output
    async with agent.run_stream("What is 2 + 2?") as streamed:
        assert "4" in await streamed.get_output()

    tooled = Agent(model, model_settings=ModelSettings(extra_headers=SLO))
    asked: list[str] = []

    @tooled.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return f"sunny in {city}"

    assert "sunny" in (await tooled.run("What is the weather in Paris?")).output
    assert asked == ["Paris"]

    structured = Agent(model, output_type=City, model_settings=ModelSettings(extra_headers=SLO))
    assert (await structured.run("Which city?")).output == City(name="Paris", population=7)


asyncio.run(main())
