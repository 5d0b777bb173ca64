"""Sampling beside transformers' generate, and an iteration of PPO beside trl 1.12.0's trainer.

    .venv/bin/python -m benchmarks.ppo --peer ENV/bin/python [--pairs 5] [--what sample iterate shared] [--sizes 6m]

ENV is an environment with trl 1.12.0 (see tests/golden/make_ppo.py). Both sides: float32, all cores, `--rows` (32)
prompts of 32 tokens and 64 new tokens each, no early end; in an iteration also four networks of that size (policy,
reference, reward, values), four epochs of one minibatch, AdamW; with `shared`, lmjax's values come from a head on the
policy, as Ziegler et al. have it and as is lmjax's default, while trl keeps its network. Two processes take turns, so
that a change of the machine's speed meets both; a turn is two rounds, the second timed.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.train_step import ROOT, Side

HERE = Path(__file__).parent
NEW = 64  # tokens of an answer
WHAT = ["sample", "iterate", "shared"]


def compare(what: str, size: str, rows: int, pairs: int, peer: Path) -> dict[str, object]:
    """Medians of both sides and their ratio."""
    ours = Side(ROOT / ".venv/bin/python", HERE / "ppo_lmjax.py", what, size, str(rows))
    theirs = Side(peer, HERE / "peers/ppo_trl.py", what, size, str(rows))
    times = [(ours.turn(), theirs.turn()) for _ in range(pairs + 1)][1:]
    seconds = [statistics.median(side) for side in zip(*times, strict=True)]
    ours.close()
    theirs.close()
    result: dict[str, object] = {
        "what": what,
        "size": size,
        "rows": rows,
        "lmjax_seconds": round(seconds[0], 3),
        "peer_seconds": round(seconds[1], 3),
    }
    if what == "sample":
        result |= {
            "lmjax_tokens_per_second": round(rows * NEW / seconds[0]),
            "peer_tokens_per_second": round(rows * NEW / seconds[1]),
        }
    result |= {"ratio": round(seconds[1] / seconds[0], 2), "pairs": pairs}
    return result | {"versions": f"{ours.versions}; {theirs.versions}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--sizes", nargs="+", default=["6m", "gpt2"])
    parser.add_argument("--rows", type=int, default=32)
    given = parser.parse_args()
    for size in given.sizes:
        for what in given.what:
            print(json.dumps(compare(what, size, given.rows, given.pairs, given.peer)), flush=True)


if __name__ == "__main__":
    main()
