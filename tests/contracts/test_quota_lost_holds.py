"""What every store promises of windows and consumptions when the part that holds is lost."""

from __future__ import annotations

import pytest

from kit.errors import RequestIdReused
from services.quota.domain.checks import Mode
from tests.contracts.quota_house import House, rate_limit
from tests.unit.quota.samples import CALLS, usage_entry


async def test_a_consumption_that_is_retried_after_its_epoch_was_lost_counts_once_in_a_window_that_was_not(
    house: House,
) -> None:
    await house.begin(own=(rate_limit(10),))
    first = await house.check({CALLS: 7}, Mode.CONSUME, "c1")
    await house.lose_holds()
    assert await house.rate() == 7
    again = await house.check({CALLS: 7}, Mode.CONSUME, "c1")
    assert (again.decision, again.decided_us) == (first.decision, first.decided_us)
    assert await house.rate() == 7
    with pytest.raises(RequestIdReused):
        await house.check({CALLS: 8}, Mode.CONSUME, "c1")


async def test_usage_that_names_a_consumption_of_a_lost_epoch_does_not_make_it_count_twice(house: House) -> None:
    await house.begin(own=(rate_limit(10),))
    await house.check({CALLS: 7}, Mode.CONSUME, "c1")
    await house.lose_holds()
    await house.apply(usage_entry({CALLS: 7}, reservation_id="c1"))
    assert not (await house.check({CALLS: 7}, Mode.CONSUME, "c1")).decision.is_denied
    assert await house.rate() == 7
