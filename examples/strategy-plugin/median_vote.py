"""`median-vote`: of n numeric answers the middle one, for questions whose answer is an estimate."""

from pydantic import Field

from strategies.base import Context, Need, Outcome, Shape, Strategy
from strategies.base import Params as BaseParams
from strategies.stopping import All


class Params(BaseParams):
    n: int = Field(5, ge=1, le=64)


class MedianVote(Strategy[Params]):
    name = "median-vote"
    params_type = Params
    needs = frozenset({Need.ANSWERS, Need.SAMPLING})

    @classmethod
    def grid(cls):
        return [Params(n=n) for n in (3, 5, 9)]

    def shape(self):
        return Shape(branches=self.params.n, stop=All(), votes=False)  # no plain vote: `paretoproxy measure` tells

    async def run(self, context: Context) -> Outcome:
        numbers = []
        async with context.sample(self.params.n) as arrivals:
            async for branch in arrivals:
                answer = await context.answer(branch)
                try:
                    numbers.append((float(answer.text.replace(",", "")), branch.index, answer.text))
                except (AttributeError, ValueError):
                    continue  # no answer, or no number
        numbers.sort()
        middle = numbers[len(numbers) // 2 :] + numbers[: len(numbers) // 2]
        return Outcome(tuple(index for _, index, _ in middle), answer=middle[0][2] if middle else None)
