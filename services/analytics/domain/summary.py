"""What calls cost, and what was saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from kit.money import round_half_away

_HUNDREDTHS_OF_A_PERCENT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTotal:
    """The calls of one provider."""

    provider: str
    cost_femto_usd: int
    baseline_femto_usd: int
    call_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSummary:
    """The cost of some days, exactly, in femto-US-dollars (1e-15)."""

    actual_femto_usd: int
    baseline_femto_usd: int
    providers: tuple[ProviderTotal, ...]
    """Costliest first, by name where they cost the same."""
    baseline_provider: str
    """Empty: there is none yet, and no call is priced."""
    applied_sequence: int

    @property
    def savings_femto_usd(self) -> int:
        """Baseline less actual; negative when the baseline was cheaper."""
        return self.baseline_femto_usd - self.actual_femto_usd

    @property
    def savings_percent_hundredths(self) -> int:
        """The savings in hundredths of a percent of the baseline, rounded half up (a half goes away from zero, also
        below it); 0 when the baseline is zero.
        """
        if self.baseline_femto_usd == 0:
            return 0
        share = Fraction(self.savings_femto_usd, self.baseline_femto_usd)
        return round_half_away(share * _HUNDREDTHS_OF_A_PERCENT)


def summarize(providers: Sequence[ProviderTotal], *, baseline_provider: str, applied_sequence: int) -> CostSummary:
    """Adds up and orders the totals of providers."""
    return CostSummary(
        actual_femto_usd=sum(total.cost_femto_usd for total in providers),
        baseline_femto_usd=sum(total.baseline_femto_usd for total in providers),
        providers=tuple(sorted(providers, key=lambda total: (-total.cost_femto_usd, total.provider))),
        baseline_provider=baseline_provider,
        applied_sequence=applied_sequence,
    )
