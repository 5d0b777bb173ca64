"""One training step of BERT-base and GPT-2 small, 8 rows of 128 tokens, against Hugging Face transformers on torch.

    .venv/bin/python benchmarks/train_step.py [--pairs 5] [--models bert gpt2] [--dtypes float32 bfloat16]

Both sides: dropout 0.1, AdamW with decay and clipping at 1.0, float32 parameters, all cores, the same batch. Two
processes take turns, so that a change of the machine's speed meets both. A turn is two steps, the second timed: where
a hypervisor takes freed pages back, the first step after a pause pays for fetching memory, which training does not.
BERT is compared twice: with transformers as it comes (logits at every position), and with its masked positions gathered
first, as lmjax does.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


class Side:
    """A process that takes a step each time it is asked, and answers with the seconds."""

    def __init__(self, python: Path, script: Path, *arguments: str):
        self._process = subprocess.Popen(
            [str(python), str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = self._read()

    def turn(self) -> float:
        """Seconds of the second of two steps."""
        assert self._process.stdin
        print("step\nstep", file=self._process.stdin, flush=True)
        return [float(self._read()) for _ in range(2)][1]

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout
        if not (line := self._process.stdout.readline().strip()):
            sys.exit("a side of the benchmark died; see above")
        return line


def compare(model: str, dtype: str, variant: str, pairs: int) -> dict[str, object]:
    """Medians of both sides and their ratio."""
    ours = Side(ROOT / ".venv/bin/python", HERE / "train_step_lmjax.py", model, dtype)
    theirs = Side(ROOT / ".venv-parity/bin/python", HERE / "peers/train_step_torch.py", model, dtype, variant)
    times = [(ours.turn(), theirs.turn()) for _ in range(pairs + 1)][1:]
    result = {
        "model": model,
        "dtype": dtype,
        "transformers": variant,
        "lmjax_seconds": round(statistics.median(t[0] for t in times), 3),
        "transformers_seconds": round(statistics.median(t[1] for t in times), 3),
    }
    result["ratio"] = round(result["transformers_seconds"] / result["lmjax_seconds"], 2)  # type: ignore[operator]
    result |= {"pairs": pairs, "versions": f"{ours.versions}; {theirs.versions}"}
    ours.close()
    theirs.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["bert", "gpt2"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    for model in arguments.models:
        for dtype in arguments.dtypes:
            for variant in ["plain", "gathered"] if model == "bert" else ["plain"]:
                print(json.dumps(compare(model, dtype, variant, arguments.pairs)), flush=True)


if __name__ == "__main__":
    main()
