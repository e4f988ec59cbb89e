"""What a request cost, in every ledger; unknown is null with a reason, never zero."""

from typing import Any

import pytest

from proxy.ledgers import Amount, Part, of_request, total
from proxy.prices import Rate


def _rate(price: float | None = 3.6, **members: Any) -> Rate:
    return Rate(**{"gpus": 2, "gpu_hour_usd": price, "marginal_gpu_s": 4e-4, **members})


def test_every_ledger_of_a_priced_request() -> None:
    ledgers = of_request([Part(_rate(), attributed_gpu_s=1.5, wall_s=4.0, tokens=1000)])
    assert ledgers.attributed == Amount(1.5, pytest.approx(0.0015))
    assert ledgers.exclusive == Amount(8.0, pytest.approx(0.008))  # both GPUs all the while
    assert ledgers.marginal == Amount(pytest.approx(0.4), pytest.approx(0.0004))  # 0.4 ms of GPU x 1000 tokens
    assert ledgers.billed == Amount(reason="no price per token is configured")
    assert ledgers.paper_cost_per_token == pytest.approx(0.008)


def test_an_unknown_price_is_null_with_a_reason_and_keeps_the_gpu_seconds() -> None:
    ledgers = of_request([Part(_rate(price=None), 1.5, 4.0, 1000)])
    assert ledgers.attributed == Amount(1.5, None, "the backend has no gpu_hour_usd")
    assert _rate(price=None).usd(1.5) is None
    assert _rate(price=0).usd(1.5) == 0.0


def test_without_a_profile_the_marginal_cost_is_unknown() -> None:
    assert (
        of_request([Part(_rate(marginal_gpu_s=None), 1.5, 4.0, 1000)]).marginal.reason == "the backend has no profile"
    )


def test_without_a_token_there_is_no_cost_per_token() -> None:
    assert of_request([Part(_rate(), 0.1, 0.1, 0)]).paper_cost_per_token is None


def test_a_request_over_two_backends_pays_each_at_its_price() -> None:
    dear, cheap = Part(_rate(price=3600), 1.0, 2.0, 100), Part(_rate(price=36), 1.0, 2.0, 100)
    ledgers = of_request([dear, cheap])
    assert ledgers.attributed == Amount(2.0, pytest.approx(1.01))
    assert ledgers.exclusive.gpu_seconds == pytest.approx(8.0)  # two GPUs each
    unpriced = of_request([dear, Part(_rate(price=None), 1.0, 2.0, 100)])
    assert unpriced.attributed == Amount(2.0, None, "the backend has no gpu_hour_usd")


def test_where_no_backend_was_used_every_ledger_says_so() -> None:
    ledgers = of_request([])
    assert ledgers.paper_cost_per_token is None
    unknown = Amount(reason="no backend was used")
    assert ledgers.attributed == ledgers.exclusive == ledgers.marginal == ledgers.billed == unknown


def test_a_total_is_unknown_as_soon_as_one_part_is() -> None:
    assert total([0.5, 0.25]) == 0.75
    assert total([0.5, None]) is None
