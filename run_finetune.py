"""Fine-tunes a model: python run_finetune.py configs/finetune/mrpc.py --init-from runs/tiny_bert [--field value ...]

Encodes the examples where that has not been done, trains or resumes, and writes predictions and the run's report.
With --seeds or --grid, several runs and a table of them. A config of PPO, as configs/chatgpt/ppo.py, tunes a model
against a reward.
"""

import sys

from lmjax.commands import exit_codes
from lmjax.memory import keep_freed_memory


@exit_codes
def main() -> None:
    keep_freed_memory()
    from lmjax.config import load_and_override
    from lmjax.finetuning import FinetuneConfig
    from lmjax.parallel import initialize_distributed
    from lmjax.rlhf.config import PpoConfig
    from lmjax.rlhf.ppo import align
    from lmjax.study import study

    cfg = load_and_override(sys.argv[1:], "run_finetune.py", FinetuneConfig, PpoConfig)
    initialize_distributed()
    if isinstance(cfg, PpoConfig):
        align(cfg)
    else:
        study(cfg)


if __name__ == "__main__":
    main()
