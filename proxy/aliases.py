"""optillm's spellings, so that its users move by changing a URL: `moa-MODEL` as the model's name, and the body's
`optillm_approach`. Where the request has controls of ours, those count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proxy.call import Call
from proxy.catalog import Catalog, Served
from proxy.errors import InvalidControl, UnknownModel

APPROACHES: Mapping[str, str] = MappingProxyType(
    {
        "none": "none",
        "self_consistency": "self-consistency",
        "majority_voting": "self-consistency",
        "bon": "best-of-n",
        "moa": "mixture-of-agents",
        "deepconf": "deep-confidence",
        "genselect": "universal-consistency",
        "thinkdeeper": "budget-forcing",
    }
)


def named(call: Call, catalog: Catalog) -> tuple[Call, Sequence[Served]]:
    """The call with its aliases resolved, and the models that its name stands for.

    Raises UnknownModel, InvalidControl.
    """
    approach = call.peek.optillm_approach
    if approach is not None:
        if approach not in APPROACHES:
            raise InvalidControl("optillm_approach", f"{approach!r} is none of {', '.join(sorted(APPROACHES))}")
        call = _pinned(call, call.model, APPROACHES[approach])
    models = catalog.find(call.model)
    if models is not None:
        return call, models
    prefix, _, rest = call.model.partition("-")
    models = catalog.find(rest) if prefix in APPROACHES else None
    if models is None:
        raise UnknownModel(call.model, catalog.names)
    return _pinned(call, rest, APPROACHES[prefix]), models


def _pinned(call: Call, model: str, strategy: str) -> Call:
    controls = call.controls
    if controls.strategy is None:
        controls = replace(controls, strategy=strategy, given=True)
    return replace(call, model=model, controls=controls)
