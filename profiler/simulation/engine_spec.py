"""What a simulated engine is: its timing and its limits."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.profile_file import Profile
from profiler.simulation.drafts import draft_tokens
from profiler.steptime import StepTime

DEFAULT_KV_TOKENS = 262_144
DEFAULT_BATCHED_TOKENS = 2048  # vLLM's server, unless told otherwise; on H100 and H200 8,192


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is: its timing and its limits. `sigma`: of `Pace`; `max_waiting` None: no limit; `by_priority`:
    vLLM's `--scheduling-policy priority`, else first come, first served."""

    step_time: StepTime
    max_num_seqs: int = 256
    max_num_batched_tokens: int = DEFAULT_BATCHED_TOKENS
    kv_tokens: int = DEFAULT_KV_TOKENS
    max_model_len: int = 32_768
    acceptance_length: float = 1.0
    draft_tokens: int = 0
    prefix_caching: bool = True
    max_waiting: int | None = None
    by_priority: bool = False
    sigma: float = 0.0
    seed: int = 0

    @classmethod
    def of_profile(cls, profile: Profile, *, max_model_len: int | None = None, seed: int = 0) -> EngineSpec:
        """As measured; a length limit of what was measured, rounded up, where none is given."""
        measured = profile.range.max_prompt + profile.range.max_output
        kv_tokens = int(profile.environment.get("kv_cache_tokens") or DEFAULT_KV_TOKENS)
        batched_tokens = int(profile.environment.get("max_num_batched_tokens") or DEFAULT_BATCHED_TOKENS)
        speculates = profile.acceptance_length > 1.0
        return cls(
            step_time=profile.step_time,
            max_num_seqs=profile.max_num_seqs,
            max_num_batched_tokens=batched_tokens,
            kv_tokens=kv_tokens,
            max_model_len=min(max_model_len or 1 << measured.bit_length(), kv_tokens),
            acceptance_length=profile.acceptance_length,
            draft_tokens=draft_tokens(profile.environment.get("speculative"), profile.acceptance_length)
            if speculates
            else 0,
            sigma=profile.residual_sigma,
            seed=seed,
        )
