"""The picture of best of N: accuracy over N with intervals, and over the requests that it costs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from vlrl.data.markup import plot_label

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RULE_STYLES = {"random": ":", "majority": "-.", "oracle": "--"}


def write_growth(path: Path, records: Sequence[Mapping[str, Any]], label: str) -> None:
    """Draw the records of `vlrl.bench.vilbench.growth` into a PNG file."""
    figure, (by_n, by_cost) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True, sharey=True)
    for name in dict.fromkeys(record["chosen_by"] for record in records):
        own = sorted((one for one in records if one["chosen_by"] == name and one["accuracy"] is not None), key=lambda r: r["N"])
        if not own:
            continue
        sizes, values = [record["N"] for record in own], [record["accuracy"] for record in own]
        if own[0]["mode"] == "rule":
            by_n.plot(sizes, values, RULE_STYLES.get(name, ":"), color="grey", label=plot_label(name))
            continue
        line = by_n.plot(sizes, values, "o-", label=plot_label(name))[0]
        spans = [record["ci95"] or [record["accuracy"]] * 2 for record in own]
        by_n.fill_between(sizes, [low for low, _ in spans], [high for _, high in spans], alpha=0.15, color=line.get_color())
        paid = [record for record in own if record.get("requests_an_item")]
        by_cost.plot(
            [record["requests_an_item"] for record in paid],
            [record["accuracy"] for record in paid],
            "o-",
            color=line.get_color(),
        )
    by_n.set_xscale("log", base=2)
    by_n.set_xticks(sorted({record["N"] for record in records}), [str(n) for n in sorted({record["N"] for record in records})])
    by_n.set_xlabel("N, solutions of an item")
    by_n.set_ylabel("accuracy of the chosen solution")
    by_cost.set_xlabel("requests to the reward model, an item")
    by_cost.set_xscale("log")
    for axis in (by_n, by_cost):
        axis.grid(alpha=0.3)
    by_n.legend(fontsize=8)
    figure.suptitle(plot_label(label, 120), fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    path.write_bytes(buffer.getvalue())
