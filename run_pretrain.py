"""Pretrains a model: python run_pretrain.py configs/tiny/bert.py [--field value ...]

Prepares the data where that has not been done, trains or resumes, and writes the run's report.
"""

import sys

from lmjax.commands import exit_codes
from lmjax.memory import keep_freed_memory


@exit_codes
def main() -> None:
    keep_freed_memory()
    from lmjax.config import load_and_override
    from lmjax.parallel import initialize_distributed
    from lmjax.pretraining import pretrain
    from lmjax.run import RunConfig

    cfg = load_and_override(sys.argv[1:], "run_pretrain.py", RunConfig)
    initialize_distributed()
    pretrain(cfg)


if __name__ == "__main__":
    main()
