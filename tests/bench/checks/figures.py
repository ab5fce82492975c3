"""The figures of checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.bench.checks.asking import batches, unary
from tests.bench.checks.house import BATCH_CHECK, House, Outcome, Server
from tests.bench.checks.peers import FULL, TIGHT
from tests.bench.table import Figure, Floor
from tollbook.quota.v1 import quota_pb2

DECIDE, RESERVE, CONSUME = (
    quota_pb2.CHECK_MODE_DECIDE,
    quota_pb2.CHECK_MODE_RESERVE,
    quota_pb2.CHECK_MODE_CONSUME,
)
ALLOWED, DENIED = (str(each) for each in (quota_pb2.DECISION_ALLOWED, quota_pb2.DECISION_DENIED))
MIXED = [f"org-{number:03}" for number in range(100)]
ONE_BY_ONE = {"TOLLBOOK_CHECKS_TOGETHER_MAX": "1"}
# Told, not judged: half a millisecond, which is the default, gathers little at a thousand checks a second.
WIDE_WINDOW = {"TOLLBOOK_CHECKS_WINDOW_MICROSECONDS": "2000"}
# What the echo answers with; a check of one limit is answered with as many. The table says what came.
ANSWER_BYTES = 92
BATCH_CHECKS = 100
TIGHT_LIMIT = 5_000
TIGHT_CALLS = 8_000


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How often and how long."""

    count: int
    seconds: float
    organizations: int


Measure: TypeAlias = Callable[[House, Rounds], Awaitable[list[Figure]]]


@dataclass(kw_only=True)
class Beside:
    """Runs of a server, each between two of another."""

    others: list[Outcome]
    runs: list[Outcome]

    @property
    def ratios(self) -> list[float]:
        """Throughput as a share of the other's."""
        return [run.rate / ((before + after) / 2) for run, before, after in self._each([o.rate for o in self.others])]

    @property
    def cpu_ratios(self) -> list[float]:
        """The other's CPU for an answer as a share of ours: the same ratio where the machine is shared with others."""
        used = [other.server_cpu_us for other in self.others]
        return [(before + after) / 2 / run.server_cpu_us for run, before, after in self._each(used)]

    def _each(self, others: list[float]) -> list[tuple[Outcome, float, float]]:
        return list(zip(self.runs, others[:-1], others[1:], strict=True))

    def figures(self, figure_id: str, name: str, floor: Floor | None, *, to: str = "E") -> list[Figure]:
        """The ratio, and what it is made of."""
        return [
            Figure(id=figure_id, name=f"{name} / {to}", rounds=self.ratios, unit="", floor=floor),
            Figure(id=figure_id, name=f"  CPU of {to} / ours, an answer", rounds=self.cpu_ratios, unit=""),
            *costs(figure_id, self.runs),
        ]


def costs(figure_id: str, runs: Sequence[Outcome], *, checks: int = 1, what: str = "check") -> list[Figure]:
    """Throughput, and the CPU of every party."""
    parties = {
        "the service": [each.server_cpu_us / checks for each in runs],
        "Redis": [each.redis_cpu_seconds / each.calls * 1e6 / checks for each in runs],
        "the client": [each.client_cpu_seconds / each.calls * 1e6 / checks for each in runs],
    }
    return [
        Figure(
            id=figure_id, name="  absolute", rounds=[each.rate * checks for each in runs], unit=f"{what}s/s", digits=0
        ),
        *(
            Figure(id=figure_id, name=f"  CPU of {who}", rounds=used, unit=f"µs/{what}", digits=1)
            for who, used in parties.items()
        ),
    ]


async def beside(
    house: House,
    rounds: Rounds,
    other: Server,
    server: Server,
    requests: Sequence[bytes],
    *,
    other_requests: Sequence[bytes] = (),
    fresh: Sequence[str] = (),
) -> Beside:
    """Rounds of both, interleaved. fresh: the organizations whose reservations are forgotten before each round."""

    async def of_other() -> Outcome:
        return await house.load(other, other_requests or requests, seconds=rounds.seconds)

    found = Beside(others=[await of_other()], runs=[])
    for _ in range(rounds.count):
        if fresh:
            await house.flush()
            await house.settle(server, fresh)
        run = await house.load(server, requests, seconds=rounds.seconds)
        assert not run.errors, f"{run.errors} while measuring"
        found.runs.append(run)
        found.others.append(await of_other())
    return found


async def one_by_one(house: House, rounds: Rounds) -> list[Figure]:
    """P1: every check a script call of its own; and the baselines."""
    found: list[Figure] = []
    async with house.echo(ANSWER_BYTES) as echo, house.quota(environment=ONE_BY_ONE) as quota:
        for mode, name in ((DECIDE, "DECIDE"), (RESERVE, "RESERVE")):
            pair = await beside(house, rounds, echo, quota, unary(MIXED, mode), fresh=MIXED)
            found += pair.figures("P1", f"{name}, one EVALSHA a check", Floor(at_least=0.50))
            if mode is DECIDE:
                sizes = [float(pair.others[0].bytes_in), float(pair.runs[0].bytes_in)]
                found += [
                    *costs("E", pair.others, what="call"),
                    Figure(id="E", name="  bytes of its answer; of a check's", rounds=sizes, unit="bytes", digits=0),
                ]
    raw = [await house.raw_evals(seconds=rounds.seconds, pipeline=100) for _ in range(rounds.count)]
    return [*found, Figure(id="Z", name="pipelined EVALSHA of one INCRBY", rounds=raw, unit="calls/s", digits=0)]


async def together(house: House, rounds: Rounds) -> list[Figure]:
    """P2, P6: those that come while others are decided go together: all of one organization, and of many in turn."""
    found: list[Figure] = []
    async with house.echo(ANSWER_BYTES) as echo, house.quota() as quota:
        for organization_ids, of in ((["hot"], "one organization"), (MIXED, f"{len(MIXED)} organizations")):
            for mode, name in ((DECIDE, "DECIDE"), (RESERVE, "RESERVE")):
                pair = await beside(house, rounds, echo, quota, unary(organization_ids, mode), fresh=organization_ids)
                commands = [run.evals / run.calls for run in pair.runs]
                title = f"{name}, {of}"
                found += [
                    *pair.figures("P2", f"{title}, together", Floor(at_least=0.7)),
                    Figure(
                        id="P6",
                        name=f"{title}: Redis commands a check",
                        rounds=commands,
                        unit="",
                        floor=Floor(at_most=0.25),
                    ),
                ]
    async with house.echo(ANSWER_BYTES) as echo, house.quota(environment=WIDE_WINDOW) as quota:
        for mode, name in ((DECIDE, "DECIDE"), (RESERVE, "RESERVE")):
            pair = await beside(house, rounds, echo, quota, unary(MIXED, mode), fresh=MIXED)
            commands = [run.evals / run.calls for run in pair.runs]
            title = f"  {name}, {len(MIXED)} organizations, a window of 2 ms"
            found += [
                *pair.figures("P2", title, None),
                Figure(id="P6", name=f"{title}: Redis commands a check", rounds=commands, unit=""),
            ]
    return found


async def remembered(house: House, rounds: Rounds) -> list[Figure]:
    """P3: denials that are known to hold."""
    async with house.echo(ANSWER_BYTES) as echo, house.quota() as quota:
        pair = await beside(house, rounds, echo, quota, unary([FULL], DECIDE), fresh=[FULL])
        assert all(set(run.decisions) == {DENIED} for run in pair.runs)
        asked = [run.evals / run.calls for run in pair.runs]
    return [
        *pair.figures("P3", "a remembered denial", Floor(at_least=0.85)),
        Figure(id="P3", name="  Redis commands a check", rounds=asked, unit="", digits=4),
    ]


async def latency(house: House, rounds: Rounds) -> list[Figure]:
    """P4, P5: how long a check takes while half of what can be asked is asked, at random moments."""
    checks: list[Outcome] = []
    echoes: list[Outcome] = []
    unsynced: list[Outcome] = []
    async with house.echo(ANSWER_BYTES) as echo, house.quota() as quota:
        await house.flush()
        await house.settle(quota, MIXED)
        requests, decides = unary(MIXED, RESERVE), unary(MIXED, DECIDE)
        half = (await house.load(quota, requests, seconds=rounds.seconds)).rate / 2
        for _ in range(rounds.count):
            await house.flush()
            await house.settle(quota, MIXED)
            for server, asked, found in (
                (echo, requests, echoes),
                (quota, requests, checks),
                (quota, decides, unsynced),
            ):
                found.append(await house.load(server, asked, rate=half, callers=512, seconds=max(3.0, rounds.seconds)))
    above = [check.latencies_ms["p99"] - echo.latencies_ms["p99"] for check, echo in zip(checks, echoes, strict=True)]
    late = [each.pacer_late_ms for each in (*checks, *echoes)]
    at = f"RESERVE at {half:,.0f}/s, half of saturation"
    return [
        Figure(id="P4", name=f"{at}: p99 above that of E", rounds=above, unit="ms", floor=Floor(at_most=3)),
        *(
            Figure(
                id="P5",
                name=f"{at}: {share}",
                rounds=[each.latencies_ms[share] for each in checks],
                unit="ms",
                floor=floor,
            )
            for share, floor in (("p50", Floor(at_most=3)), ("p99", Floor(at_most=10)), ("p99.9", Floor(at_most=25)))
        ),
        Figure(id="P5", name="  p99 of E at the same rate", rounds=[e.latencies_ms["p99"] for e in echoes], unit="ms"),
        # What of it the disk is not in: nothing is written.
        Figure(
            id="P5",
            name="  p99 of DECIDE at the same rate",
            rounds=[e.latencies_ms["p99"] for e in unsynced],
            unit="ms",
        ),
        Figure(id="P5", name="  the client's own lateness, p99", rounds=late, unit="ms"),
    ]


async def hot(house: House, rounds: Rounds) -> list[Figure]:
    """P7: everyone asks for one organization, against many organizations in turn."""
    uniform = [f"many-{number:05}" for number in range(rounds.organizations)]
    async with house.quota() as quota:
        await house.flush()
        await house.settle(quota, [*uniform, "hot"])
        pair = await beside(house, rounds, quota, quota, unary(["hot"], DECIDE), other_requests=unary(uniform, DECIDE))
    return pair.figures("P7", f"one hot organization / {len(uniform):,} in turn", Floor(at_least=0.85), to="many")


async def processes(house: House, rounds: Rounds) -> list[Figure]:
    """P9: two processes on one port against one. Client and Redis have no processor of their own here."""
    async with house.quota(pinned=False) as one, house.quota(processes=2) as two:
        await house.flush()
        await house.settle(one, MIXED)
        await house.settle(two, MIXED)
        pair = await beside(house, rounds, one, two, unary(MIXED, DECIDE))
    halves = [ratio / 2 for ratio in pair.ratios]
    return [
        Figure(id="P9", name="2 processes / 2 x 1 process", rounds=halves, unit="", floor=Floor(at_least=0.75)),
        Figure(id="P9", name="  CPU of a check, 1 / 2 processes", rounds=pair.cpu_ratios, unit=""),
        *costs("P9", pair.runs),
    ]


async def black_hole(house: House, rounds: Rounds) -> list[Figure]:
    """P10: Redis takes connections and commands and answers none."""
    times, ratios, errors, throughput = [], [], [], []
    environment = {"TOLLBOOK_REDIS_CHECK_MILLISECONDS": "20"}
    async with house.echo(ANSWER_BYTES) as echo, house.quota(environment=environment) as quota:
        await house.flush()
        await house.settle(quota, MIXED)
        requests = unary(MIXED, DECIDE)
        await house.load(quota, requests, seconds=1.0)
        for _ in range(rounds.count):
            baseline = await house.load(echo, requests, seconds=rounds.seconds)
            with house.silent_redis():
                run = await house.load(quota, requests, warm_seconds=0.0, seconds=rounds.seconds)
                paced = await house.load(quota, requests, rate=200.0, callers=512, seconds=max(3.0, rounds.seconds))
            times.append(paced.latencies_ms["p99"])
            throughput.append(run.answered / run.seconds)
            ratios.append(throughput[-1] / baseline.rate)
            errors.append(sum(run.errors.values()) / run.answered)
    return [
        Figure(id="P10", name="Redis silent: p99 at 200 checks/s", rounds=times, unit="ms", floor=Floor(at_most=25)),
        Figure(id="P10", name="  answers and refusals / E", rounds=ratios, unit="", floor=Floor(at_least=0.6)),
        Figure(id="P10", name="  absolute", rounds=throughput, unit="checks/s", digits=0),
        Figure(id="P10", name="  share that was refused (UNAVAILABLE)", rounds=errors, unit=""),
    ]


async def overshoot(house: House, rounds: Rounds) -> list[Figure]:
    """P11: 64 clients ask 8 processes for more than there is, one unit each."""
    beyond, short = [], []
    async with house.quota(processes=8) as quota:
        for number in range(rounds.count):
            organization_id = f"{TIGHT}{TIGHT_LIMIT + number}"
            await house.settle(quota, [organization_id])
            run = await house.load(
                quota,
                unary([organization_id], RESERVE, quantity=1),
                callers=64,
                connections=64,
                calls=TIGHT_CALLS,
                warm_seconds=0.0,
            )
            admitted = run.decisions.get(ALLOWED, 0)
            beyond.append(float(max(0, admitted - TIGHT_LIMIT - number)))
            short.append(float(max(0, TIGHT_LIMIT + number - admitted)))
    name = f"admitted beyond {TIGHT_LIMIT:,}, {TIGHT_CALLS:,} asked by 64 clients at 8 processes"
    return [
        Figure(id="P11", name=name, rounds=beyond, unit="", floor=Floor(at_most=0), digits=0),
        Figure(id="P11", name="  denied although there was room", rounds=short, unit="", digits=0),
    ]


async def batched(house: House, rounds: Rounds) -> list[Figure]:
    """BatchCheck: decisions per second of one process, on one processor."""
    found: list[Figure] = []
    async with house.quota() as quota:
        for mode, name, floor in (
            (DECIDE, "DECIDE", Floor(at_least=100_000)),
            (RESERVE, "RESERVE", None),
            (CONSUME, "CONSUME", None),
        ):
            runs = []
            for _ in range(rounds.count):
                await house.flush()
                await house.settle(quota, MIXED)
                runs.append(
                    await house.load(
                        quota,
                        batches(MIXED, mode, BATCH_CHECKS),
                        method=BATCH_CHECK,
                        callers=4,
                        seconds=rounds.seconds,
                    )
                )
                assert not runs[-1].errors, f"{runs[-1].errors} while measuring"
            absolute, *others = costs("batch", runs, checks=BATCH_CHECKS, what="decision")
            rates = absolute.rounds
            title = f"batches of {BATCH_CHECKS}, {name}"
            found += [Figure(id="batch", name=title, rounds=rates, unit="decisions/s", floor=floor, digits=0), *others]
    return found


MEASURES: dict[str, Measure] = {
    "P1": one_by_one,
    "P2": together,
    "P3": remembered,
    "P4": latency,
    "P7": hot,
    "P9": processes,
    "P10": black_hole,
    "P11": overshoot,
    "batch": batched,
}
