"""Working off what fell due, in the order of its times, each at its time, whole or not at all."""

import itertools
from dataclasses import replace

import structlog

from tools.stripe_simulator.errors import StripeError
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import Due

EVERYBODYS = ""
"""The lane of what hangs on no test clock."""

# Far more than any test plans; a task that plans itself for the same moment again would never end.
_TASKS_MAX = 100_000

_log = structlog.get_logger()


def work_off(call: Call, *, test_clock: str, until: int) -> int:
    """Does all that falls due up to then, what comes of it included; answers how much it was."""
    for count in itertools.count():
        due = call.store.next_due(test_clock=test_clock)
        if due is None or due.due_at > until or count == _TASKS_MAX:
            return count
        call.store.unplan(due.object_id, due.task)
        _perform(call, due)
    raise AssertionError


def _perform(call: Call, due: Due) -> None:
    body = call.store.get(due.object_id)
    if body is None or body.get("deleted"):
        return
    # Nobody asked for it, which the events say.
    own = replace(
        call, params=Params({}), path={"id": due.object_id}, now=due.due_at, request_id=None, idempotency_key=None
    )
    try:
        with call.store.step():
            call.tasks[due.task](own, body)
    except StripeError as error:
        # The object's state forbids it by now.
        _log.warning("task_refused", task=due.task, object_id=due.object_id, reason=str(error))
