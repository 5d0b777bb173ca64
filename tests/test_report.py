import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lmjax.errors import UserError
from lmjax.report import POINTS, _curve, _running_mean, report

CONFIG = {
    "type": "Run",
    "seed": 3,
    "model": {"type": "Bert", "layers": 2},
    "stages": [{"type": "Stage", "length": 128}],
}


def a_run(run_dir: Path, steps: int = 20) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 10 * steps + 1, 10):
        norms = {"all": 2.0 / step, "layers": 1.0 / step}
        train = {
            "loss": 5 + 9 / step,
            "mlm": 4 + 9 / step,
            "learning_rate": 1e-4,
            "gradient_norm": norms,
            "tokens": 64 * step,
            "skipped": step == 50,
        }
        timing = {"tokens_per_second": 4e4, "data_wait": 0.004, "mfu": 0.31}
        lines.append({"step": step, "split": "train", **train, "time": timing})
        if step % 100 == 0:
            lines.append({"step": step, "split": "heldout", "loss": 5.5, "mlm_accuracy": 0.4125})
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run_dir / "config.json").write_text(json.dumps({"schema_version": 1, "config": CONFIG}))
    return run_dir


class Page(HTMLParser):
    """Text of the page outside of styles, its tags, and whatever it would fetch."""

    def __init__(self, source: str):
        super().__init__()
        self.text, self.tags, self.fetched, self.inside = "", [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")]

    def handle_data(self, data):
        self.text += "" if self.inside == "style" else data


def test_the_page_says_all_of_it(tmp_path):
    run_dir = a_run(tmp_path / "tiny <bert>")
    (run_dir / "baselines.json").write_text(json.dumps({"mlm_accuracy": {"unigram": 0.061}}))
    samples = [{"title": "Masks", "rows": [["a [MASK] of <b>", "list"], "plain & text"]}]
    (run_dir / "samples.json").write_text(json.dumps(samples))
    (run_dir / "environment.json").write_text(json.dumps({"jax": "0.10.2", "device": "TPU v5e"}))
    source = report(run_dir).read_text()
    page = Page(source)
    assert page.fetched == []
    assert "<script" not in source
    assert "bert" not in page.tags
    for text in (
        "tiny <bert>",
        "Held out, after 200 steps: loss 5.5, MLM accuracy 0.412 (unigram 0.061).",
        "a [MASK] of <b>",
        "plain & text",
        "0.length",
        "TPU v5e",
        "31.0%",
        "skipped updates",
        "unigram 0.061",
    ):
        assert text in page.text
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", source)
    assert titles == [
        "loss", "MLM", "MLM accuracy", "learning rate", "gradient norm by group", "tokens per second",
        "data wait (share of the step)",
    ]  # fmt: skip
    assert page.tags.count("svg") == len(titles)
    charts = source[source.index("<figure") : source.rindex("</figure")]
    assert "var(--series-1)" in charts
    assert not re.search(r"#0[a1-3]0", charts)  # no stand-in colour is left


def test_the_page_is_a_function_of_the_run(tmp_path):
    first, second = (report(a_run(tmp_path / name / "run")).read_text() for name in "ab")
    assert first == second


def test_a_young_run_has_a_page_too(tmp_path):
    a_run(tmp_path, steps=1)
    assert "Step 10: training loss 5.9." in report(tmp_path).read_text()
    (tmp_path / "metrics.jsonl").write_text("")
    assert "No step was logged." in report(tmp_path).read_text()


def test_no_run_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        report(tmp_path)


def test_curves_leave_out_gaps_and_stay_short():
    lines = [{"step": s, "loss": None if s == 3 else float(s), "norm": {"all": 2.0}} for s in range(5000)]
    steps, values = _curve(lines, "loss")
    assert len(steps) == POINTS
    assert np.allclose(steps, values)
    assert set(_curve(lines, "norm", "all")[1]) == {2.0}
    assert len(_curve(lines, "absent")[0]) == 0
    assert np.allclose(_running_mean(np.full(100, 3.0)), 3)
    assert np.allclose(_running_mean(np.arange(100.0))[10:-10], np.arange(100)[10:-10])
