"""What strategies share that put answers into further prompts: bounded texts, lists, and calls of one phase each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from strategies.answers import split_thinking
from strategies.base import Branch, Context, Generation

MAX_ITEM_CHARS = 300
_ITEM = re.compile(r"[ \t]{0,8}(?:\d{1,2}[.):]|[-*•+])[ \t]{1,8}(\S[^\n]{0,2000})", re.ASCII)
_CUT = "\n[…]\n"


def visible(branch: Branch, chars: int) -> str:
    """A branch's answer without its thinking, in at most so many characters; empty where it says nothing."""
    return clipped(split_thinking(branch.text)[1].strip(), chars)


def clipped(text: str, chars: int) -> str:
    """Its beginning and its end, where the answer stands; what is between is cut out."""
    if len(text) <= chars:
        return text
    kept = max(2, chars - len(_CUT))
    return text[: kept // 2].rstrip() + _CUT + text[-(kept - kept // 2) :].lstrip()


def numbered(texts: Iterable[str], what: str) -> str:
    """Texts under headings such as `Answer 1:`, for a prompt."""
    return "\n\n".join(f"{what} {number}:\n{text}" for number, text in enumerate(texts, 1))


def listed(text: str, most: int) -> list[str]:
    """The first items of a numbered or bulleted list, each once, without emphasis; empty where there is no list."""
    items: dict[str, str] = {}
    for line in text.splitlines():
        found = _ITEM.match(line)
        item = found[1].replace("**", "").strip(" \t_*")[:MAX_ITEM_CHARS] if found else ""
        if item:
            items.setdefault(item.casefold(), item)
    return list(items.values())[:most]


def replaces(new: Branch, old: Branch) -> bool:
    """Whether a later version may stand for an earlier one: never one that says nothing, nor a cut-off one for a
    whole one."""
    says = bool(visible(new, 2)) or new.finish_reason == "tool_calls"
    return says and (new.finish_reason != "length" or old.finish_reason == "length")


async def lone(context: Context, generation: Generation) -> Branch | None:
    """One generation; None where it failed or the deadline came first."""
    async with context.sample([generation]) as arrivals:
        async for branch in arrivals:
            return branch
    return None


async def all_of(context: Context, generations: Sequence[Generation]) -> list[Branch]:
    """Those that finish by the deadline, in order of arrival."""
    async with context.sample(generations) as arrivals:
        return [branch async for branch in arrivals]


def why(context: Context) -> str:
    """Why a generation did not come, for a note."""
    return "the deadline came" if context.out_of_time else "it failed"
