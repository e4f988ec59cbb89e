"""The simulated engine does what vLLM's V1 scheduler does, and its times are what the step-time model says."""

from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest
from engine_rig import STEP, Rig, run_cell

from profiler.simulation.engine import QueueFull
from profiler.simulation.pace import EPOCH_S, Pace
from profiler.simulation.tokenizer import prompt_of

LONG = prompt_of(list(range(4096)))


def step_s(batch: int) -> float:
    return 0.010 + 0.001 * batch


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_branches_that_run_together_take_the_steps_of_their_batch(batch: int) -> None:
    rig = Rig()
    branches = [rig.start(10, 101) for _ in range(batch)]
    rig.run()
    prefill_s = 10 * batch * STEP.p_tok_s
    assert {round(branch.end_s, 9) for branch in branches} == {round(prefill_s + 100 * step_s(batch), 9)}
    rig.nothing_is_left()


def test_the_batch_shrinks_as_branches_end() -> None:
    rig = Rig()
    short, long = rig.start(1, 11), rig.start(1, 31)
    rig.run()
    assert short.end_s == pytest.approx(2e-4 + 10 * step_s(2))
    assert long.end_s == pytest.approx(2e-4 + 10 * step_s(2) + 20 * step_s(1))


def test_one_that_comes_later_joins_after_the_step_that_runs() -> None:
    rig = Rig()
    first, second = rig.start(1, 1001), rig.at(0.0155, 100, 3)
    rig.run()
    # Steps of the first end at 0.0001 + k·0.011: the second is in the step that begins at 0.0221.
    assert second[0].first_s == pytest.approx(0.0001 + 2 * step_s(1) + step_s(1) + 100 * STEP.p_tok_s)
    assert second[0].end_s == pytest.approx(second[0].first_s + 2 * step_s(2))
    assert first.end_s == pytest.approx(0.0001 + 998 * step_s(1) + 2 * step_s(2) + 0.010)


def test_listeners_are_told_the_first_token_and_then_every_so_many() -> None:
    rig = Rig()
    branch = rig.start(1, 40, every=16)
    rig.run()
    assert [tokens for _, tokens in branch.heard] == [1, 17, 33, 40]
    assert [at for at, _ in branch.heard] == pytest.approx([1e-4 + k * step_s(1) for k in (0, 16, 32, 39)])


def test_a_long_prompt_is_computed_in_chunks_and_holds_up_the_others() -> None:
    """4,096 tokens in chunks of 1,000: five steps, each as much longer as its chunk takes."""
    rig = Rig(max_num_batched_tokens=1001)
    beside = rig.start(1, 101)
    came = rig.at(0.01, LONG, 2)
    rig.run()
    alone_s = 1e-4 + 100 * step_s(1)
    assert beside.end_s == pytest.approx(alone_s + 4096 * STEP.p_tok_s + (step_s(2) - step_s(1)))
    assert came[0].first_s == pytest.approx(1e-4 + (1 + 5) * step_s(1) + 4096 * STEP.p_tok_s)


def test_a_stall_below_one_is_hidden_behind_the_step_and_alone_the_prompt_takes_its_own_time() -> None:
    rig = Rig(step_time=replace(STEP, stall=0.5))
    beside, came = rig.start(1, 101), rig.at(0.01, 200, 2)
    rig.run()
    held_up_s = max(0.5 * 200 * STEP.p_tok_s, 200 * STEP.p_tok_s - step_s(1))
    assert beside.end_s == pytest.approx(1e-4 + 100 * step_s(1) + held_up_s + 0.001)
    assert came[0].heard


def test_a_prompt_met_before_is_looked_up_but_for_its_last_block() -> None:
    rig = Rig()
    first, second = rig.start(LONG, 2), rig.start(LONG, 2)
    rig.run()
    assert first.first_s == pytest.approx(4096 * STEP.p_tok_s)
    assert second.first_s - first.first_s == pytest.approx(step_s(1) + 16 * STEP.p_tok_s)
    again = rig.start(LONG, 2)
    began = rig.clock.now()
    rig.run()
    assert again.first_s - began == pytest.approx(16 * STEP.p_tok_s)
    assert rig.engine.counters.cached_tokens == 2 * (4096 - 16)


def test_without_prefix_caching_everything_is_computed() -> None:
    rig = Rig(prefix_caching=False)
    rig.start(LONG, 1)
    rig.start(LONG, 1)
    rig.run()
    assert rig.clock.now() == pytest.approx(2 * 4096 * STEP.p_tok_s)


def test_kept_prompts_give_way_to_those_in_use() -> None:
    rig = Rig(kv_tokens=1024)
    a, b = rig.prompt(640), rig.prompt(640)
    for prompt in (a, b, a):
        rig.start(prompt, 1)
        rig.run()
    assert 0 < rig.engine.counters.cached_tokens < 640 - 16, "b has taken the place of some blocks of a"


def test_no_more_run_than_max_num_seqs_and_those_that_wait_come_in_order() -> None:
    rig = Rig(max_num_seqs=2)
    branches = [rig.start(1, 11) for _ in range(6)]
    rig.run(0.05)
    assert (rig.engine.running, rig.engine.queued) == (2, 4)
    rig.run()
    ends = [branch.end_s for branch in branches]
    assert ends == sorted(ends) and len(set(ends)) == 3


def test_a_full_kv_cache_preempts_the_last_one_which_computes_its_tokens_again() -> None:
    rig = Rig(kv_tokens=256)
    branches = [rig.start(16, 100) for _ in range(3)]  # 3 · 116 tokens do not fit
    rig.run()
    assert rig.engine.counters.preemptions >= 1
    assert branches[2].generation is not None and branches[2].generation.preempted >= 1
    assert branches[0].generation is not None and branches[0].generation.preempted == 0
    assert [branch.heard[-1][1] for branch in branches] == [100, 100, 100]
    assert branches[2].end_s > branches[0].end_s
    assert rig.engine.totals()[0] == 300
    rig.nothing_is_left()


def test_memory_is_never_overdrawn() -> None:
    rig = Rig(kv_tokens=400)
    for k in range(12):
        rig.start(20 + k, 60 + 7 * k)
    while rig.engine.running or rig.engine.queued:
        rig.run(rig.clock.now() + 0.01)
        used = rig.engine.memory.in_blocks + rig.engine._own_memory(rig.engine._now_steps())
        assert used <= 400 + 12, "but for the step that runs"
    rig.nothing_is_left()


def test_an_aborted_branch_frees_its_place_and_is_told_nothing_more() -> None:
    rig = Rig(max_num_seqs=1)
    first, second = rig.start(1, 1000, every=1), rig.start(1, 2)
    rig.run(0.1)
    assert first.generation is not None
    first.generation.cancel()
    heard = len(first.heard)
    rig.run()
    assert len(first.heard) == heard and first.ended_s is None
    assert second.end_s == pytest.approx(1e-4 + 10 * step_s(1) + 1e-4 + step_s(1)), "after the step that ran"
    assert first.generation.tokens == 11 == rig.engine.totals()[0] - 2
    rig.nothing_is_left()


@pytest.mark.parametrize("when_s", [0.0, 0.00005, 0.02])
def test_aborting_works_in_every_state(when_s: float) -> None:
    """Before it is taken in, while its prompt is computed, and while it waits."""
    rig = Rig(max_num_seqs=1, step_time=replace(STEP, p0_s=1e-5))
    doomed = [rig.start(100, 50) for _ in range(3)]
    rig.run(when_s)
    for branch in doomed:
        assert branch.generation is not None
        branch.generation.cancel()
    rig.run()
    assert not any(branch.ended_s for branch in doomed)
    rig.nothing_is_left()


def test_a_listener_may_abort_others() -> None:
    """As a vote that is decided does: the losers, of which some have just ended too, leave at once."""
    rig = Rig()
    others = [rig.start(1, output) for output in (11, 12, 500)]

    def decided(tokens: int, last: bool) -> None:
        for other in others:
            assert other.generation is not None
            other.generation.cancel()

    rig.engine.submit(rig.prompt(1), 11, 0, decided)
    rig.run()
    assert rig.clock.now() < 0.3
    rig.nothing_is_left()


def test_a_full_queue_refuses() -> None:
    rig = Rig(max_num_seqs=1, max_waiting=2)
    rig.start(1, 100)
    rig.run(0.05)
    rig.start(1, 5)
    rig.start(1, 5)
    with pytest.raises(QueueFull):
        rig.start(1, 5)
    rig.run()
    rig.start(1, 5)


def test_the_host_takes_requests_in_one_after_the_other() -> None:
    rig = Rig(step_time=replace(STEP, p0_s=0.02, p_branch_s=0.003, p_cached_s=1e-6))
    branches = [rig.start(LONG, 1) for _ in range(4)]
    rig.run()
    expected = 0.02 + 3 * (0.003 + 4096e-6)
    assert branches[3].first_s == pytest.approx(max(expected, 0.02 + 4096 * STEP.p_tok_s) + 0.0016, abs=0.0032)


@pytest.mark.parametrize("acceptance", [1.0, 1.7, 2.95])
def test_drafts_are_accepted_as_often_as_told(acceptance: float) -> None:
    rig = Rig(acceptance_length=acceptance, draft_tokens=4)
    branches = [rig.start(1, 600, every=1) for _ in range(20)]
    rig.run()
    generated, drafts, accepted = rig.engine.totals()
    assert generated == 20 * 600
    assert generated / (generated - accepted) == pytest.approx(acceptance, rel=0.01)
    assert drafts == generated - accepted - 20
    heard = [[tokens for _, tokens in branch.heard] for branch in branches]
    given = {b - a for tokens in heard for a, b in pairwise(tokens)}
    assert given <= {1, 2, 3} and max(given) <= acceptance + 1
    assert branches[0].end_s == pytest.approx(20e-4 + 599 / acceptance * step_s(20), rel=0.01)


def test_counters_count_while_branches_run() -> None:
    rig = Rig()
    rig.start(1, 1000)
    rig.run(0.0001 + 10.5 * step_s(1))
    assert rig.engine.totals()[0] == 11
    assert rig.engine.kv_usage > 0


def test_kv_reads_grow_with_what_is_generated_and_a_shared_prompt_has_its_own_price() -> None:
    step = replace(STEP, c_kv_s=1e-6, c_shared_s=3e-6, p_tok_s=0.0)
    alone = Rig(step_time=step)
    branch = alone.start(LONG, 11)
    alone.run()
    kv = sum(4096 + k for k in range(1, 11))
    assert branch.end_s == pytest.approx(10 * step_s(1) + 1e-6 * kv)
    both = Rig(step_time=step, max_num_batched_tokens=8192)
    first, _ = both.start(LONG, 11), both.start(LONG, 11)
    both.run()
    kv = sum(2 * k for k in range(1, 11))
    assert first.end_s == pytest.approx(10 * step_s(2) + 1e-6 * kv + 10 * 3e-6 * 2 * 4096, rel=1e-3)


def test_death_leaves_nothing_and_tells_nobody() -> None:
    rig = Rig(step_time=replace(STEP, p0_s=0.01))
    branches = [rig.start(10, 100) for _ in range(3)]
    rig.run(0.5)
    late = rig.start(10, 5)
    heard = [len(branch.heard) for branch in branches]
    rig.engine.drop_all()
    rig.nothing_is_left()
    rig.run()
    assert [len(branch.heard) for branch in branches] == heard and not late.heard
    again = rig.start(10, 2)
    rig.run()
    assert again.ended_s is not None


def test_a_slow_engine_is_slow_from_the_next_step_on() -> None:
    rig = Rig()
    branch = rig.start(1, 101)
    rig.run(0.0001 + 50.5 * step_s(1))
    rig.engine.slow_down(3.0)
    rig.run()
    assert branch.end_s == pytest.approx(1e-4 + 51 * step_s(1) + 49 * 3 * step_s(1))


def test_pace_has_median_one_and_the_spread_of_the_residuals() -> None:
    pace = Pace(0.2, seed=3)
    factors = sorted(pace.at(EPOCH_S * k) for k in range(2000))
    assert median(factors) == pytest.approx(1.0, abs=0.02)
    assert factors[1900] == pytest.approx(2.718281828 ** (0.2 * 1.645), rel=0.05)
    assert Pace(0.2, seed=3).at(55.0) == pace.at(50.0) != Pace(0.2, seed=4).at(55.0)


def test_latency_spreads_as_the_residuals_say() -> None:
    """One branch at a time, ten seconds apart: p95 over p50 is that of the lognormal factor."""
    rig = Rig(sigma=0.15, seed=1)
    took = []
    for k in range(400):
        started = rig.at(EPOCH_S * k, 1, 101)
        rig.run(EPOCH_S * (k + 1) - 1)
        took.append(started[0].end_s - EPOCH_S * k)
    took.sort()
    assert took[200] == pytest.approx(1e-4 + 100 * step_s(1), rel=0.03)
    assert took[380] / took[200] == pytest.approx(2.718281828 ** (0.15 * 1.645), rel=0.06)


def test_the_same_seed_gives_the_same_to_the_last_bit() -> None:
    def run(seed: int) -> list[list[tuple[float, int]]]:
        rig = Rig(sigma=0.1, seed=seed, acceptance_length=2.3, draft_tokens=4, kv_tokens=2000)
        branches = [rig.at(0.013 * k, 50 + k, 100 + 3 * k) for k in range(40)]
        rig.run()
        return [branch[0].heard for branch in branches]

    assert run(1) == run(1) != run(2)


def test_a_cell_is_what_its_profile_predicts() -> None:
    from profiler.cells import Cell, CellSpec
    from profiler.fit import predict_latency_s
    from profiler.simulation.engine_spec import EngineSpec

    cell = CellSpec(16, 256, 300, shared=True)
    _, latency_s = run_cell(EngineSpec(step_time=replace(STEP, c_kv_s=1e-7, c_shared_s=1e-8)), cell)
    expected = predict_latency_s(replace(STEP, c_kv_s=1e-7, c_shared_s=1e-8), Cell(cell, 0, 0, 0))
    assert latency_s == pytest.approx(expected, rel=0.01)


def test_an_engine_that_schedules_by_priority_takes_the_lowest_first_and_equal_ones_in_turn() -> None:
    rig = Rig(max_num_seqs=1, by_priority=True)
    running = rig.start(1, 11)
    late, early, equal = (rig.start(1, 11, priority=priority) for priority in (9, 2, 2))
    rig.run()
    assert running.end_s < early.end_s < equal.end_s < late.end_s


def test_others_serve_who_came_first_whatever_the_priority() -> None:
    rig = Rig(max_num_seqs=1)
    first, second = rig.start(1, 11, priority=9), rig.start(1, 11, priority=2)
    rig.run()
    assert first.end_s < second.end_s


def test_a_full_cache_preempts_the_branch_with_the_highest_priority_number() -> None:
    """Which came first; without priorities it is the one that came last."""
    rig = Rig(kv_tokens=64, by_priority=True)
    patient, urgent = rig.start(16, 40, priority=9), rig.start(16, 40, priority=1)
    rig.run()
    assert rig.engine.counters.preemptions > 0
    assert urgent.end_s < patient.end_s
