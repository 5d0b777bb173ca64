"""The small model of `gpt1.py` on your own text files, plain or .gz; a document is a file.

Command:   python run_pretrain.py configs/tiny/gpt1_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'
Result:    on 23 novels (english_novels/[A-F]*.txt.gz): held-out perplexity 272 (unigram 550), accuracy 0.101 (unigram
           0.046); the time was not taken alone
"""

from dataclasses import replace

from configs.tiny.gpt1 import config as gpt1
from lmjax.data.prepare import WeightedData
from lmjax.data.sources import TextFiles
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = gpt1()
    data = replace(cfg.data[0].data, store="stores/files_gpt1", source=TextFiles(("texts/*.txt",)))
    return replace(cfg, directory="runs/files_gpt1", data=(WeightedData(data),))
