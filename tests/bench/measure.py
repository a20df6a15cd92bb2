"""What all benchmark scripts share: interleaved runs and the closing JSON line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping


def interleaved(
    contenders: Mapping[str, Callable[[], float]], *, num_rounds: int, num_warmups: int = 1
) -> dict[str, list[float]]:
    """Figures by contender, measured in turn (A B A B ...), so that drift hits all alike."""
    for _ in range(num_warmups):
        for measure in contenders.values():
            measure()
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_rounds):
        for name, measure in contenders.items():
            figures[name].append(measure())
    for name, values in figures.items():
        print(
            f"{name:24} median {statistics.median(values):.4g}"
            f"  min {min(values):.4g}  max {max(values):.4g}"
        )
    return figures


def print_result(
    name: str,
    *,
    ours: list[float],
    peer: list[float],
    goal: float,
    higher_is_better: bool = False,
    **extra: object,
) -> None:
    """The closing line: medians, how many times better than the peer we are, and our spread."""
    ours_median, peer_median = statistics.median(ours), statistics.median(peer)
    ratio = ours_median / peer_median if higher_is_better else peer_median / ours_median
    print(
        json.dumps(
            {
                "name": name,
                "ours": round(ours_median, 5),
                "peer": round(peer_median, 5),
                "ratio": round(ratio, 3),
                "goal": goal,
                "spread": [round(min(ours), 5), round(max(ours), 5)],
                **extra,
            }
        )
    )
