"""Tunes a model by PPO against a reward model: python run_ppo.py configs/chatgpt/ppo.py [--field value ...]

Prepares the pretraining text where that is mixed in and has not been prepared, trains or resumes, and writes the run's
report.
"""

import sys

from lmjax.commands import exit_codes
from lmjax.memory import keep_freed_memory


@exit_codes
def main() -> None:
    keep_freed_memory()
    from lmjax.config import load_and_override
    from lmjax.parallel import initialize_distributed
    from lmjax.rlhf.config import PpoConfig
    from lmjax.rlhf.ppo import align

    cfg = load_and_override(PpoConfig, sys.argv[1:], "run_ppo.py")
    initialize_distributed()
    align(cfg)


if __name__ == "__main__":
    main()
