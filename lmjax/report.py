"""One self-contained page about a run: what came out, its curves, samples, config, versions and hardware.

It reads RUN/config.json and metrics.jsonl, and where they are there environment.json, baselines.json
(`{"mlm_accuracy": {"unigram": 0.06}}`: horizontal lines) and samples.json (`[{"title": ..., "rows": [...]}]`, each row
a text or a list of cells).
"""

import html
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmjax.errors import UserError
from lmjax.train.files import write_atomically
from lmjax.train.log import judged_by

# Colours stand for CSS variables, so that one page serves a light and a dark screen.
INK, GRID, SOFT = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0a0a0{i}" for i in range(6))
VARIABLES = {INK: "--ink", GRID: "--line", SOFT: "--soft", **{c: f"--series-{i}" for i, c in enumerate(SERIES)}}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.prop_cycle": cycler(color=SERIES),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}
APART = ("step", "split", "time", "learning_rate", "skipped", "tokens")  # shown otherwise, or not as a curve
POINTS = 400  # a curve has no more; longer ones are averaged in bins
Curve = tuple[np.ndarray, np.ndarray]


def report(run_dir: epath.PathLike) -> epath.Path:
    """Writes RUN/report.html and returns its path. Raises UserError where there is no run."""
    run_dir = epath.Path(run_dir)
    if not (run_dir / "metrics.jsonl").exists() or not (run_dir / "config.json").exists():
        raise UserError(f"{run_dir} holds no run: config.json or metrics.jsonl is missing")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((run_dir / "config.json").read_text())["config"]
    baselines = _read(run_dir / "baselines.json", {})
    train, heldout = ([line for line in lines if line["split"] == split] for split in ("train", "heldout"))
    result = headline(train, heldout, baselines)
    sections = [
        f"<header><h1>{_escape(run_dir.name)}</h1><p class=lead>{_escape(result)}</p></header>",
        f"<section class=tiles>{_tiles(train, heldout, baselines)}</section>",
        f"<section><h2>Curves</h2><div class=charts>{''.join(_charts(train, heldout, baselines))}</div></section>",
        _samples(_read(run_dir / "samples.json", [])),
        f"<section><h2>Config</h2>{_config(config)}</section>",
        f"<section><h2>Versions and hardware</h2>{_table(_read(run_dir / 'environment.json', {}))}</section>",
    ]
    page = PAGE.replace("TITLE", _escape(run_dir.name)).replace("BODY", "\n".join(sections))
    write_atomically(run_dir / "report.html", page)
    return run_dir / "report.html"


def headline(train: Sequence[Mapping], heldout: Sequence[Mapping], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """The result in one line: the last held-out figures beside their baselines, or what training has come to."""
    if not train and not heldout:
        return "No step was logged."
    if not heldout:
        figures = ", ".join(f"{_name(key)} {_number(value)}" for key, value in judged_by(train[-1]).items())
        return f"Step {train[-1]['step']:,}: {'' if 'score' in train[-1] else 'training '}{figures}."
    last = heldout[-1]
    figures = [
        f"{_name(key)} {_number(value)}"
        + "".join(f" ({name} {_number(b)})" for name, b in baselines.get(key, {}).items())
        for key, value in last.items()
        if key not in ("step", "split")
    ]
    return f"Held out, after {last['step']:,} steps: {', '.join(figures)}."


def _tiles(train: Sequence[Mapping], heldout: Sequence[Mapping], baselines: Mapping[str, Mapping[str, float]]) -> str:
    tiles = []
    for key, value in heldout[-1].items() if heldout else ():
        if key not in ("step", "split"):
            beside = ", ".join(f"{name} {_number(b)}" for name, b in baselines.get(key, {}).items())
            tiles.append((f"held-out {_name(key)}", _number(value), beside))
    for key in ("tokens_per_second", "mfu", "data_wait"):
        values = _curve(train, "time", key)[1]
        if len(values):
            median = float(np.median(values))
            tiles.append((_name(key), _number(median) if key == "tokens_per_second" else f"{median:.1%}", "median"))
    if skipped := sum(line.get("skipped") or 0 for line in train):
        tiles.append(("skipped updates", _number(skipped), "among the logged steps"))
    return "".join(
        f"<div class=tile><span>{_escape(a)}</span><b>{_escape(b)}</b><small>{_escape(c)}</small></div>"
        for a, b, c in tiles
    )


def _charts(
    train: Sequence[Mapping], heldout: Sequence[Mapping], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    scalars = [k for line in [*train[:1], *heldout[:1]] for k, v in line.items() if not isinstance(v, Mapping | str)]
    charts = []
    for name in dict.fromkeys(k for k in ["loss", *scalars] if k not in APART and "perplexity" not in k):
        curves = {"training": _curve(train, name), "held-out": _curve(heldout, name)}
        charts.append(_chart(_name(name), curves, baselines.get(name, {}), faint=("training",)))
    charts.append(_chart("learning rate", {"": _curve(train, "learning_rate")}))
    for kind in ("gradient_norm", "update_norm", "parameter_norm"):
        groups = next((line[kind] for line in train if kind in line), {})
        curves = {group: _curve(train, kind, group) for group in sorted(groups, key=lambda g: (g != "all", g))}
        charts.append(_chart(f"{_name(kind)} by group", curves, log=True))
    both = [line for line in train if None not in (line.get("kl"), line.get("score"))]
    if both:  # how much reward was bought with how much divergence
        kl, score = (_curve(both, name)[1] for name in ("kl", "score"))
        charts.append(_chart("score against KL", {"": (kl, score)}, x="KL of an answer to the reference (nats)"))
    charts.append(_chart("tokens per second", {"": _curve(train, "time", "tokens_per_second")}, floor=True))
    charts.append(_chart("data wait (share of the step)", {"": _curve(train, "time", "data_wait")}, floor=True))
    return [chart for chart in charts if chart]


def _chart(
    title: str,
    curves: Mapping[str, Curve],
    baselines: Mapping[str, float] | None = None,
    *,
    faint: Sequence[str] = (),
    log: bool = False,
    floor: bool = False,
    x: str = "step",
) -> str:
    """An inline SVG, or "" without points. A `faint` curve is drawn softly, with its running mean on top; over anything
    but steps the points are not joined."""
    styles = dict(zip(curves, itertools.product(("-", "--", ":"), SERIES), strict=False))  # before any is left out
    curves = {label: curve for label, curve in curves.items() if len(curve[0])}
    if not curves:
        return ""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for label, (steps, values) in curves.items():
            line, colour = styles[label]
            if label in faint:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
                values = _running_mean(values)
            apart = label == "held-out" or len(steps) == 1 or x != "step"
            marker = {"marker": "o", "markersize": 3.5} if apart else {}
            axes.plot(steps, values, line if x == "step" else "", color=colour, label=label or None, **marker)
        for name, value in (baselines or {}).items():
            _horizontal(axes, name, value)
        if log:
            _logarithmic(axes, np.concatenate([values for _, values in curves.values()]))
        if floor:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=1.2)
        axes.set_xlabel(x)
        svg = _svg(figure)
    return f"<figure><figcaption>{_escape(title)}</figcaption>{svg}</figure>"


def _horizontal(axes: Axes, name: str, value: float) -> None:
    axes.axhline(value, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.1)
    axes.annotate(
        f"{name} {_number(value)}", (1, value), (0, 2), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", fontsize=8, color=SOFT,
    )  # fmt: skip


def _logarithmic(axes: Axes, values: np.ndarray) -> None:
    """Where the values lie far enough apart for it."""
    if 0 < 5 * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")


def _svg(figure: Figure) -> str:
    """Inline, its colours as variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def _curve(lines: Sequence[Mapping], *keys: str) -> Curve:
    """Steps and values of a metric, nested by `keys`; gaps (null) are left out, long curves averaged in bins."""
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            points.append((line["step"], value))
    steps, values = np.array(points, float).reshape(-1, 2).T
    bins = np.array_split(np.arange(len(steps)), min(len(steps), POINTS) or 1)
    return tuple(np.array([x[b].mean() for b in bins if len(b)]) for x in (steps, values))  # type: ignore[return-value]


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over 5% of the curve around each point."""
    reach = len(values) // 40
    sums = np.cumsum(np.concatenate([[0.0], values]))
    starts = np.maximum(np.arange(len(values)) - reach, 0)
    ends = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return (sums[ends] - sums[starts]) / (ends - starts)


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    blocks = []
    for sample in samples:
        rows = [[row] if isinstance(row, str) else row for row in sample["rows"]]
        body = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        blocks.append(f"<h3>{_escape(sample['title'])}</h3><table class=samples>{body}</table>")
    return f"<section><h2>Samples</h2>{''.join(blocks)}</section>" if blocks else ""


def _config(config: Mapping[str, Any]) -> str:
    """One foldable table for each part, the run's own plain fields first."""
    parts = {name: dict(_flat(part)) for name, part in config.items()}
    plain = {name: part[""] for name, part in parts.items() if list(part) == [""]}
    parts = {"run": plain, **{name: part for name, part in parts.items() if name not in plain}}
    folds = [f"<summary>{_escape(name)}</summary>{_table(part)}" for name, part in parts.items()]
    return f"<div class=columns>{''.join(f'<details open>{fold}</details>' for fold in folds)}</div>"


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [item for k, v in tree.items() for item in _flat(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(tree, list) and any(isinstance(v, Mapping) for v in tree):
        return _flat({str(i): v for i, v in enumerate(tree)}, prefix)
    return [(prefix, tree)]


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><th>{_escape(k)}</th><td>{_escape(_value(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(path: epath.Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _name(key: str) -> str:
    words = key.replace("_", " ")
    return " ".join(w.upper() if w in ("mlm", "nsp", "clm", "mfu", "kl", "eos") else w for w in words.split())


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _escape(text: Any) -> str:
    return html.escape(str(text))


PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --soft: #66707b; --line: #e3e1dc;
  --series-0: #2563a8; --series-1: #d1572b; --series-2: #2f8f6b; --series-3: #8a5bb5; --series-4: #b58a1b;
  --series-5: #5b6770; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --soft: #97a1ab;
  --line: #30363c; --series-0: #6aa9ee; --series-1: #f08a5d; --series-2: #62c7a0; --series-3: #bb94e0;
  --series-4: #dfb84d; --series-5: #9aa7b2; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -0.01em } h2 { margin: 2.5rem 0 .9rem; font-size: 1.15rem }
h3 { margin: 1.2rem 0 .4rem; font-size: 1rem } .lead { margin: .4rem 0 0; color: var(--soft); font-size: 1.05rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: .8rem; margin-top: 1.5rem }
.tile, figure, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px }
.tile { padding: .8rem 1rem } .tile span, .tile small { display: block; color: var(--soft); font-size: .8rem }
.tile b { display: block; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: .9rem }
figure { margin: 0; padding: .8rem .9rem .4rem }
figcaption { font-weight: 600; font-size: .92rem; margin-bottom: .3rem }
svg { width: 100%; height: auto; display: block } svg text { font-family: inherit !important }
.columns { columns: 2 420px; column-gap: .9rem }
details { break-inside: avoid; width: 100%; margin-bottom: .9rem; padding: .5rem .9rem }
summary { font-weight: 600; cursor: pointer; padding: .2rem 0 }
table { border-collapse: collapse; font-size: .86rem; width: 100% }
th, td { text-align: left; padding: .18rem 1rem .18rem 0; vertical-align: top; overflow-wrap: anywhere }
th { font-weight: 500; color: var(--soft); width: 45% } td { font-variant-numeric: tabular-nums }
.samples td { border-top: 1px solid var(--line); padding: .5rem 1rem .5rem 0; white-space: pre-wrap }
</style>
BODY
</html>
"""
