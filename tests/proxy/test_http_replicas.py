"""Two equal replicas share the work: a busy backend must not look cheaper than an idle one."""

import asyncio

from http_rig import Fleet
from scripted_backend import says


async def test_votes_that_run_together_spread_over_equal_replicas(fleet: Fleet) -> None:
    held = asyncio.Event()
    one, two, proxy = await fleet.two()
    for backend in (one, two):
        backend.will(*[says("The answer is \\boxed{42}.", when=held)] * 32)
    pinned = {"x_tts_strategy": "self-consistency", "x_tts_n": "4"}
    asks = [asyncio.create_task(proxy.ask(**pinned)) for _ in range(8)]
    await asyncio.sleep(0.5)
    held.set()
    await asyncio.gather(*asks)
    shares = sorted((len(one.generations), len(two.generations)))
    assert sum(shares) == 32
    assert shares[0] >= 12
