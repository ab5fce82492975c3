"""Makes deploy/sample_trace.csv: a synthetic trace of agent tasks, the same bytes on every machine.

    python -m tools.make_sample_trace

Ten minutes of 600 LLM calls whose answers are long, so that a replay takes organization A through its
included minutes and its grace band to its hard stop. Integers alone: no library's logarithm decides a digit.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "deploy" / "sample_trace.csv"

_SEED = 20260131
_ROWS = 600
_BEGAN = datetime(2026, 1, 31, 9, 0, 0)  # noqa: DTZ001 - a trace names no zone
# 100 ns steps between calls: a second on average.
_GAP_TICKS_MAX = 20_000_000
_TICKS_PER_SECOND = 10_000_000


def sample_trace() -> str:
    """The trace, header included."""
    dice = random.Random(_SEED)  # noqa: S311 - no secret
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    ticks = 1_234_567
    for _ in range(_ROWS):
        moment = _BEGAN + timedelta(seconds=ticks // _TICKS_PER_SECOND)
        # The products lean towards the small, as real prompts and answers do.
        context_tokens = 40 + dice.randrange(90) * dice.randrange(60)
        generated_tokens = 30 + dice.randrange(80) * dice.randrange(80)
        fraction = ticks % _TICKS_PER_SECOND
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S}.{fraction:07},{context_tokens},{generated_tokens}")
        ticks += dice.randrange(_GAP_TICKS_MAX)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the file."""
    SAMPLE.write_text(sample_trace(), encoding="ascii")
    print(f"wrote {SAMPLE}")


if __name__ == "__main__":
    main()
