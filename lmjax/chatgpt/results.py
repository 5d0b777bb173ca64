"""The end of the recipe: a table for the screen, a picture, and the stages' answers side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmjax.chatgpt.world import POLITE, RIGHT
from lmjax.report import report
from lmjax.train.files import write_atomically

NAMES = {"pretrained": "pretrained, merely prompted", "tuned": "supervised tuning", "PPO": "PPO"}
HEADER = ("", "true reward", "reward model's score", "KL from tuned, nats", "ended")
SHOWN = (("true_reward", "tab:blue", "true reward"), ("score", "tab:orange", "reward model's score"))


def table(found: Mapping[str, Any]) -> str:
    """Means with 95% confidence intervals, a line for each stage."""
    lines: list[tuple[str, ...]] = [HEADER]
    for name, one in found["stages"].items():
        figures = ("{:.2f} ± {:.2f}".format(*one[column]) for column in ("true_reward", "score", "kl"))
        lines.append((NAMES[name], *figures, f"{one['ended'][0]:.0%}"))
    lines.append(("the best possible", f"{RIGHT + POLITE:.2f}", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    judge, gain = found["judge"], "{:+.2f} ± {:.2f}".format(*found["gain"])
    accuracy = f"{judge['accuracy']:.3f} ± {1.96 * judge['accuracy_error']:.3f}"
    said = f"reward model, held-out pairs: accuracy {accuracy}; expected of who knows the truth {judge['ceiling']:.3f}"
    return f"{text}\n\nPPO less supervised tuning, question by question: true reward {gain}\n{said}"


def show_samples(run: epath.Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """A line for each question in the report of the last stage's run, behind the run's own samples."""
    file, title = run / "samples.json", "The same questions to every stage (each answer with its true reward)"
    header = ["", "right", *NAMES.values()]
    rows = [
        [one["asked"], one["right"], *(f"{one[name][0]}\n[{one[name][1]:.2g}]" for name in NAMES)] for one in samples
    ]
    own = [block for block in json.loads(file.read_text()) if block["title"] != title]
    write_atomically(file, json.dumps([*own, {"title": title, "rows": [header, *rows]}], indent=1))
    report(run)


def draw(found: Mapping[str, Any]) -> Figure:
    """Left, the stages' true rewards and scores; right, both over the divergence as PPO goes on."""
    picture = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=(1, 1.2))
    places = np.arange(len(found["stages"]))
    for shift, (column, colour, label) in zip((-0.2, 0.2), SHOWN, strict=True):
        means, halves = zip(*(one[column] for one in found["stages"].values()), strict=True)
        left.bar(places + shift, means, 0.38, yerr=halves, color=colour, label=label, capsize=3)
    left.axhline(RIGHT + POLITE, color="tab:blue", linestyle=":", label="the best possible true reward")
    left.axhline(0, color="black", linewidth=0.8)
    left.set_xticks(places, [NAMES[name].replace(", ", ",\n") for name in found["stages"]])
    left.legend(fontsize=8)
    draw_course(right, found["stages"]["tuned"], found["course"])
    right.set_title("as PPO goes on", fontsize=10)
    return picture


def draw_course(axes: Axes, tuned: Mapping[str, Any], course: Mapping[str, Mapping[str, Any]]) -> None:
    """True reward and score over the divergence, from the tuned model through PPO's checkpoints."""
    points = [tuned, *course.values()]
    for column, colour, label in SHOWN:
        means, halves = zip(*(one[column] for one in points), strict=True)
        at = [one["kl"][0] for one in points]
        axes.errorbar(at, means, halves, fmt="o-", color=colour, label=label, capsize=2)
    axes.set_xlabel("KL from the tuned model, nats an answer")
    axes.grid(alpha=0.3)
