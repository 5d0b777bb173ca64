"""The small model of `gpt2.py` on your own text files, plain or .gz.

Command:   python run_pretrain.py configs/tiny/gpt2_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'

A document is a file, and sentences are split by rule; for other texts see `--data.0.data.source.documents`
(blank_line, line, or regex with `--data.0.data.source.pattern`) and `--data.0.data.sentences` (line where each line is
a sentence).
"""

from dataclasses import replace

from configs.tiny.gpt2 import config as gpt2
from lmjax.data.prepare import WeightedData
from lmjax.data.sources import TextFiles
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = gpt2()
    data = replace(cfg.data[0].data, store="stores/files_gpt2", source=TextFiles(("texts/*.txt",)), sentences="split")
    return replace(cfg, directory="runs/files_gpt2", data=(WeightedData(data),))
