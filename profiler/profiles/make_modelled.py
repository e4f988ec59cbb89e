"""TP 2, 4 and 8 of the profiles that were measured at TP 1: `python -m profiler.profiles.make_modelled`.

One degree was measured, so what ranks share is assumed, not known: see `profiler/tensor_parallel.py`. The files say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from profiler import profile_file
from profiler.profile_file import Profile
from profiler.tensor_parallel import Assumptions, modelled

FOLDER = Path(__file__).parent
DEGREES = (2, 4, 8)
HOST_S = 1e-3  # of a step without speculation
SHAPES = {
    "qwen3-8b": Assumptions(layers=36, hidden=4096, kv_heads=8),
    "qwen3-1.7b": Assumptions(layers=28, hidden=2048, kv_heads=8),
}


def main() -> None:
    for path in sorted(FOLDER.glob("*-tp1*.json")):
        profile = profile_file.read(path)
        plain = profile_file.read(FOLDER / f"h200-{profile.environment['model']}-tp1.json")
        for degree in DEGREES:
            name = profile.backend.replace("-tp1", f"-tp{degree}")
            made = modelled([profile], degree, f"{name}-modelled", _assumed(profile, plain))
            profile_file.write(made, path.with_name(f"h200-{made.backend}.json"))


def _assumed(profile: Profile, plain: Profile) -> Assumptions:
    """What speculation adds to the step of a lone branch is taken as host work, which ranks do not share."""
    drafts = (profile.environment.get("speculative") or {}).get("num_speculative_tokens", 0)
    added_s = max(0.0, float(profile.step_time.g_s(1) - plain.step_time.g_s(1)))
    shape = SHAPES[profile.environment["model"]]
    return replace(shape, host_s=HOST_S + added_s, tokens_per_branch=1 + drafts)


if __name__ == "__main__":
    main()
