"""Modelled tensor-parallel degrees: exact where the law holds, cautious where it does not, and labelled."""

from dataclasses import astuple, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler import profile_file
from profiler.profile_file import Profile, wide_prior
from profiler.steptime import StepTime
from profiler.tensor_parallel import Assumptions, Link, ModellingError, from_one, from_two, modelled

QWEN3_8B = Assumptions(layers=36, hidden=4096, kv_heads=8)
SCALARS = ("c_kv_s", "p0_s", "p_tok_s", "p_tok2_s", "p_branch_s", "p_cached_s", "c_shared_s")

seconds = st.floats(1e-9, 1.0)
rising = st.lists(seconds, min_size=4, max_size=4).map(lambda rises: np.cumsum(rises))
degrees = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=3, max_size=3, unique=True)


def engine(step: list[float] | np.ndarray, *scalars: float, batches: tuple[float, ...] = (1, 8, 64, 256)) -> StepTime:
    return StepTime(batches, tuple(map(float, step)), *scalars, stall=0.8)


@st.composite
def laws(draw: st.DrawFn) -> tuple[StepTime, StepTime]:
    """The shared and the fixed work, a and b, of every coefficient."""
    one = [engine(draw(rising), *(draw(seconds) for _ in SCALARS)) for _ in range(2)]
    return one[0], one[1]


def at(law: tuple[StepTime, StepTime], degree: int) -> StepTime:
    a, b = law
    step = np.array(a.step_s) / degree + np.array(b.step_s)
    return engine(step, *(getattr(a, name) / degree + getattr(b, name) for name in SCALARS))


def numbers(step_time: StepTime) -> np.ndarray:
    return np.hstack(astuple(step_time))


@given(laws(), degrees)
def test_two_degrees_of_an_exact_law_give_the_third(law: tuple[StepTime, StepTime], degrees: list[int]) -> None:
    t1, t2, third = degrees
    predicted = from_two({t1: at(law, t1), t2: at(law, t2)}, third)
    assert numbers(predicted.step_time) == pytest.approx(numbers(at(law, third)), rel=1e-6, abs=1e-12)
    assert predicted.notes == ()


@given(rising, rising, st.lists(seconds, min_size=14, max_size=14))
def test_more_ranks_are_never_slower_nor_better_than_in_proportion(
    at_one: np.ndarray, at_two: np.ndarray, scalars: list[float]
) -> None:
    """Whatever two degrees were measured as, and a fuller batch is never quicker."""
    measured = {1: engine(at_one, *scalars[:7]), 2: engine(at_two, *scalars[7:])}
    four, eight = (from_two(measured, degree).step_time for degree in (4, 8))
    for name in SCALARS:
        low, high = getattr(four, name), getattr(eight, name)
        assert low / 2 * (1 - 1e-9) <= high <= low * (1 + 1e-9)
    assert (np.array(eight.step_s) <= np.array(four.step_s) * (1 + 1e-9)).all()
    assert (np.diff(four.step_s) >= 0).all()
    assert min(numbers(eight)) >= 0


def test_what_two_ranks_make_slower_is_taken_as_not_shared_and_said() -> None:
    """As a small model on two CPU cores: its all-reduces cost more than halving the work saves."""
    one, two = engine([1.0, 1, 1, 1], 0, 0, 0), engine([1.5, 1.5, 1.5, 1.5], 0, 0, 0)
    predicted = from_two({1: one, 2: two}, 4)
    assert predicted.step_time.step_s == (1.5,) * 4
    assert predicted.notes[0] == "a step of 1 grows from TP 1 to 2: taken as not shared, at the larger value"


def test_what_falls_more_than_in_proportion_is_taken_as_shared_in_full_and_said() -> None:
    one, two = engine([1.0, 1, 1, 1], 0, 0, 0), engine([0.4, 0.4, 0.4, 0.4], 0, 0, 0)
    predicted = from_two({1: one, 2: two}, 4)
    assert predicted.step_time.step_s == (0.25,) * 4
    assert "more than in proportion" in predicted.notes[0]


def test_profiles_with_different_knots_meet_on_all_of_them() -> None:
    one = engine([2.0, 4.0], 0, 0, 0, batches=(1, 9))
    two = engine([1.0, 1.5, 2.5], 0, 0, 0, batches=(1, 5, 13))  # half of the other, which goes on rising
    assert from_two({1: one, 2: two}, 4).step_time.batches == (1, 5, 9, 13)
    assert from_two({1: one, 2: two}, 4).step_time.step_s == pytest.approx((0.5, 0.75, 1.0, 1.25))


GPU = engine([5.2e-3, 5.3e-3, 6.3e-3, 13.7e-3], 2e-9, 22e-3, 4e-5, 1e-10, 2e-4, 1e-7, 1e-9)


def test_from_one_degree_follows_the_stated_formula() -> None:
    link = Link(bandwidth_bytes_s=100e9, latency_s=5e-6)
    assumed = Assumptions(layers=10, hidden=1000, kv_heads=2, link=link, host_s=1e-3)
    four = from_one(GPU, 1, 4, assumed).step_time
    reduce_64 = 2 * 10 * (5e-6 + 2 * 3 / 4 * 64 * 1000 * 2 / 100e9)
    assert four.g_s(64) == pytest.approx((6.3e-3 - 1e-3) / 4 + 1e-3 + reduce_64)
    assert four.c_kv_s == GPU.c_kv_s / 2  # two KV heads: the other ranks read them again
    assert four.p0_s == pytest.approx(22e-3 - 4.2e-3 * 3 / 4 + 2 * 10 * 5e-6)
    assert four.p_tok_s == pytest.approx(4e-5 / 4 + 2 * 10 * (2 * 3 / 4 * 1000 * 2 / 100e9))
    assert (four.p_tok2_s, four.c_shared_s) == (GPU.p_tok2_s / 4, GPU.c_shared_s / 2)
    assert (four.p_branch_s, four.p_cached_s, four.stall) == (GPU.p_branch_s, GPU.p_cached_s, GPU.stall)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]))
def test_from_one_degree_to_another_and_back_is_where_one_began(there: int, back: int) -> None:
    moved = from_one(from_one(GPU, 1, there, QWEN3_8B).step_time, there, back, QWEN3_8B).step_time
    assert moved.step_s == pytest.approx(from_one(GPU, 1, back, QWEN3_8B).step_time.step_s)
    assert moved.p_tok_s == pytest.approx(from_one(GPU, 1, back, QWEN3_8B).step_time.p_tok_s)


def test_over_a_quick_link_more_ranks_are_quicker_and_over_a_slow_one_they_can_lose() -> None:
    quick = [float(from_one(GPU, 1, degree, QWEN3_8B).step_time.g_s(64)) for degree in (1, 2, 4, 8)]
    assert quick[0] == pytest.approx(6.3e-3)
    assert quick == sorted(quick, reverse=True)
    slow = replace(QWEN3_8B, link=Link(bandwidth_bytes_s=1e9, latency_s=100e-6))
    assert from_one(GPU, 1, 2, slow).step_time.g_s(64) > GPU.g_s(64)


def test_drafted_tokens_are_reduced_too() -> None:
    plain, drafting = (
        from_one(GPU, 1, 2, replace(QWEN3_8B, tokens_per_branch=tokens)).step_time.g_s(64) for tokens in (1, 4)
    )
    assert drafting - plain == pytest.approx(3 * 64 * QWEN3_8B.reduce_token_s(2))


def test_a_step_shorter_than_what_is_assumed_of_it_is_said() -> None:
    predicted = from_one(engine([1e-4] * 4, 0, 0, 0), 1, 2, QWEN3_8B)
    assert "a step of 1 is shorter than the host work" in predicted.notes[0]
    assert min(predicted.step_time.step_s) >= 1e-4


# -- profiles --


def measured(degree: int, step_time: StepTime = GPU, **environment: object) -> Profile:
    known = {"model": "m", "tensor_parallel_size": degree, "date": "2026-03-01", "gpu": "H200", **environment}
    return msgspec.structs.replace(
        wide_prior(f"tp{degree}"), environment=known, step_time=step_time, residual_sigma=0.05, max_num_seqs=64 * degree
    )


def test_a_modelled_profile_says_that_it_is_and_from_what() -> None:
    profile = modelled([measured(1), measured(2)], 4, "h200-tp4")
    assert (profile.backend, profile.cells, profile.max_num_seqs) == ("h200-tp4", [], 64)
    environment = profile.environment
    assert (environment["modelled"], environment["tensor_parallel_size"], environment["gpu"]) == (True, 4, "H200")
    assert environment["modelled_from"] == [
        {"backend": "tp1", "tensor_parallel_size": 1},
        {"backend": "tp2", "tensor_parallel_size": 2},
    ]
    assert environment["assumptions"] == {"law": "each coefficient a/t + b, a and b ≥ 0"}
    assert "date" not in environment


def test_the_assumptions_are_in_the_profile() -> None:
    environment = modelled([measured(1)], 2, assumptions=QWEN3_8B).environment
    assert environment["assumptions"]["layers"] == 36
    assert environment["assumptions"]["link"] == {"bandwidth_bytes_s": 360e9, "latency_s": 10e-6}
    assert environment["notes"] == []


def test_it_is_less_certain_than_what_it_was_modelled_from_and_more_so_the_farther() -> None:
    from_a_pair = [modelled([measured(1), measured(2)], degree).residual_sigma for degree in (4, 8)]
    from_a_single = [modelled([measured(1)], degree, assumptions=QWEN3_8B).residual_sigma for degree in (2, 4, 8)]
    assert 0.05 < from_a_pair[0] < from_a_pair[1]
    assert from_a_pair[0] < from_a_single[0] < from_a_single[1] < from_a_single[2]


def test_it_is_written_and_read_like_any_profile(tmp_path: Path) -> None:
    profile = modelled([measured(1)], 8, assumptions=QWEN3_8B)
    profile_file.write(profile, tmp_path / "tp8.json")
    assert profile_file.read(tmp_path / "tp8.json") == profile


@pytest.mark.parametrize(
    ("profiles", "problem"),
    [
        ([], "one or two"),
        ([measured(1), measured(2), measured(4)], "one or two"),
        ([measured(1)], "needs assumptions"),
        ([measured(2), measured(2)], "both profiles were measured at TP 2"),
        ([measured(1), measured(2, model="other")], "`model` differs"),
        ([measured(1), measured(2, speculative={"method": "ngram"})], "`speculative` differs"),
        ([measured(1), measured(2, modelled=True)], "no measurement"),
    ],
)
def test_what_cannot_be_combined_is_refused(profiles: list[Profile], problem: str) -> None:
    with pytest.raises(ModellingError, match=problem):
        modelled(profiles, 4)
