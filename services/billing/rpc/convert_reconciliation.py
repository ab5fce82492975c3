"""Reports and differences to the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kit.errors import InvalidField
from kit.grpc.convert import moment_to_pb
from services.billing.application.ports.reconciliation import Found, Report
from services.billing.domain.reconciliation import DriftKind
from tollbook.billing.v1 import reconciliation_pb2


def report_to_pb(report: Report, found: Iterable[Found] = ()) -> reconciliation_pb2.ReconciliationReport:
    """A report, with what it found."""
    return reconciliation_pb2.ReconciliationReport(
        report_id=report.report_id,
        actor=report.actor,
        begin_time=moment_to_pb(report.begin_time),
        end_time=moment_to_pb(report.end_time),
        organization_count=report.organization_count,
        difference_count=report.difference_count,
        pending_count=report.pending_count,
        failures=[
            reconciliation_pb2.ReconciliationFailure(organization_id=key, error=report.failed[key])
            for key in sorted(report.failed)
        ],
        differences=map(found_to_pb, found),
    )


def found_to_pb(found: Found) -> reconciliation_pb2.Difference:
    """A difference, and what became of it."""
    difference = found.difference
    ours, theirs, start = difference.our_amount, difference.their_amount, difference.period_start
    return reconciliation_pb2.Difference(
        difference_id=difference.difference_id,
        kind=reconciliation_pb2.DriftKind.Value(f"DRIFT_KIND_{difference.kind.value}"),
        organization_id=difference.organization_id,
        object_id=difference.object_id,
        stripe_id=difference.stripe_id,
        ours=difference.ours,
        theirs=difference.theirs,
        our_amount="" if ours is None else str(ours),
        our_currency_code="" if ours is None else ours.currency_code,
        their_amount="" if theirs is None else str(theirs),
        their_currency_code="" if theirs is None else theirs.currency_code,
        repair=reconciliation_pb2.Repair.Value(f"REPAIR_{difference.repair.value}"),
        pending=found.is_pending,
        outcome=found.outcome,
        period_start_time=None if start is None else moment_to_pb(start),
    )


def kinds_from_pb(kinds: Sequence[reconciliation_pb2.DriftKind.ValueType]) -> list[DriftKind]:
    """The kinds. Raises InvalidField."""
    known = {reconciliation_pb2.DriftKind.Value(f"DRIFT_KIND_{kind.value}"): kind for kind in DriftKind}
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise InvalidField(field="kinds", problem=f"{unknown[0]} is none")
    return [known[kind] for kind in kinds]
