"""The papers' runs of GPT-3 spend the tokens that the paper states, and their mixture is one that a period can hold."""

import importlib

import numpy as np
import pytest

from lmjax.data.pipeline import mixture_counts
from lmjax.data.schedule import Schedule


@pytest.mark.parametrize(
    ("name", "batch_tokens", "ramp_tokens"), [("small", 0.5e6, 4e9), ("13b", 2e6, 8e9), ("175b", 3.2e6, 12e9)]
)
def test_tokens_of_the_ramp_and_of_the_run(name, batch_tokens, ramp_tokens):
    """Brown et al. 2020, Table 2.1 and appendix B; a micro-batch is the first batch, 32k tokens."""
    cfg = importlib.import_module(f"configs.gpt3_{name}").config()
    schedule = Schedule(cfg.stages)
    rows, ramp_steps = schedule.rows(slice(None)), cfg.stages[0].until_step
    assert rows[0] * 2048 == cfg.stages[0].micro_batch * 2048 == 32768
    assert rows[-1] * 2048 == pytest.approx(batch_tokens, rel=0.05)
    assert (np.diff(rows) >= 0).all()
    assert (rows[ramp_steps:] == rows[-1]).all()
    assert schedule.tokens_before(ramp_steps) == pytest.approx(ramp_tokens, rel=0.02)
    assert schedule.tokens_before(schedule.steps) == pytest.approx(300e9, rel=0.001)
    assert (cfg.optim.unit, cfg.optim.warmup, cfg.optim.total) == ("tokens", 375e6, 260e9)
    assert mixture_counts([entry.weight for entry in cfg.data]).sum() == 1000
