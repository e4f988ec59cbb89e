"""What a vote does that has nothing to decide by: the outcome reward chooses, where there is one.

A vote between answers that all differ is a guess dressed as a decision; so is one that nobody took part in.
"""

from __future__ import annotations

from dataclasses import replace

from strategies.base import Context, NoScore, Outcome
from strategies.ranking import ranking
from strategies.voting import Vote

FEWEST = 3
"""Of two answers that differ nothing repeats by chance alone: below three branches the vote's own tie rule decides."""


def undecided(vote: Vote, n: int) -> str | None:
    """Why the vote over `n` started branches has nothing to decide by; None where it has."""
    votes = sum(vote.counts)
    if n < FEWEST or vote.arrived < 2:
        return None
    if not votes:
        return "no branch gave an answer"
    return "all answers differ" if votes >= FEWEST and max(vote.counts) == 1 else None


async def decide(context: Context, vote: Vote, n: int, note: str | None = None, *, reward: bool = True) -> Outcome:
    """The vote's outcome; where it has nothing to decide by, the best by the outcome reward among the branches that
    answered (all of them, where none did). Without a reward the vote's own rule for ties answers: the shortest, which
    of branches that started together is the first; without any vote the first arrival.

    `note`: what went wrong before, so that this had to be asked; `reward` false: it has been asked already, in vain.
    """
    why = undecided(vote, n)
    if why is None:
        by_votes = max(vote.counts, default=0) > 1
        return vote.outcome(note and noted(note, "the plain vote decided" if by_votes else "the first one answers"))
    able = [item for item in vote.seen if item[1] is not None] or vote.seen
    try:
        if not reward:
            raise NoScore("")
        rewards = await context.score([branch.text for branch, _ in able], "reward")
    except NoScore:
        return vote.outcome(noted(note, f"{why}, and no reward told them apart: the first one answers"))
    scores = {branch.index: values[-1] for (branch, _), values in zip(able, rewards, strict=True) if values}
    ranked = ranking(vote.seen, scores)
    answers = {branch.index: answer for branch, answer in vote.seen if answer is not None}
    best = answers.get(ranked[0])
    return Outcome(
        ranked,
        agreement=1 / len(able) if best is not None else None,
        answer=best.text if best is not None else None,
        votes=sum(vote.counts),
        note=noted(note, f"{why}: the reward chose"),
    )


async def settle(context: Context, vote: Vote, n: int, note: str | None = None) -> Outcome:
    """`decide` for a vote in which nothing went wrong; `note`: what is to be said of it in any case."""
    outcome = await decide(context, vote, n)
    return replace(outcome, note=noted(note, outcome.note))


def noted(*notes: str | None) -> str | None:
    """All that there is to say."""
    return "; ".join(note for note in notes if note) or None
