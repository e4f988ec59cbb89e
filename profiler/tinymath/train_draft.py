"""How often a draft's tokens are accepted."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from profiler.tinymath.train_evaluation import Answered

_ROWS: Final = 32


def acceptance(draft: Any, target: Any, sampled: Sequence[Answered]) -> dict[str, float]:
    """The acceptance rate over the target's own answers, one a question, at temperature 1 and greedily, 0 to 1.

    At temperature 1 a drafted token is accepted with probability sum(min(p, q)) (Leviathan et al., 2023, Corollary
    3.6); greedily where both models' most likely tokens agree.
    """
    sampled_sum = greedy_sum = 0.0
    tokens = 0
    rows = [(answered.asked.prompt_ids, answered.ids[0]) for answered in sampled]
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        width = max(len(prompt) + len(ids) for prompt, ids in part)
        ids = torch.zeros((len(part), width), dtype=torch.int64)
        counted = torch.zeros((len(part), width), dtype=torch.bool)
        for index, (prompt, answer) in enumerate(part):
            ids[index, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            counted[index, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
        ids, counted = ids.to(target.device), counted.to(target.device)
        with torch.inference_mode():
            p, q = (
                torch.softmax(model(input_ids=ids, use_cache=False).logits[counted].float(), -1)
                for model in (target, draft)
            )
        sampled_sum += torch.minimum(p, q).sum().item()
        greedy_sum += (p.argmax(-1) == q.argmax(-1)).sum().item()
        tokens += len(p)
    return {"acceptance": round(sampled_sum / tokens, 4), "greedy_acceptance": round(greedy_sum / tokens, 4)}
