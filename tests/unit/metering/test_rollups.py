from __future__ import annotations

import pytest

from services.metering.domain.grouping import Label, SubjectPart
from services.metering.domain.rollups import BUCKET_US, can_be_rolled_up_by, whole_buckets
from services.metering.domain.windows import Window

B = BUCKET_US


@pytest.mark.parametrize(
    ("windows", "whole"),
    [
        ([Window(0, 3 * B)], Window(0, 3 * B)),
        ([Window(1, 3 * B - 1)], Window(B, 2 * B)),
        ([Window(-1, B)], Window(0, B)),
        ([Window(1, 2 * B - 1)], None),
        ([Window(1, 2)], None),
        ([Window(B, B)], None),
        ([Window(None, B + 1)], Window(None, B)),
        ([Window(1, None)], Window(B, None)),
        ([Window(None, None)], Window(None, None)),
        ([Window(1, B), Window(B, 2 * B + 1)], Window(B, 2 * B)),
        ([Window(0, B + 1), Window(B + 1, 3 * B)], None),
    ],
)
def test_rollups_answer_the_whole_buckets_inside(windows: list[Window], whole: Window | None) -> None:
    assert whole_buckets(windows) == whole


def test_rollups_tell_projects_teams_users_and_agents_apart_and_nothing_finer() -> None:
    assert can_be_rolled_up_by([])
    assert can_be_rolled_up_by([SubjectPart.PROJECT, SubjectPart.TEAM, SubjectPart.USER, SubjectPart.AGENT])
    for finer in (SubjectPart.TASK, SubjectPart.SESSION, Label("env")):
        assert not can_be_rolled_up_by([SubjectPart.PROJECT, finer])
