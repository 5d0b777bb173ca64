"""The small model of `gpt3.py` on your own text files, plain or .gz; a document is a file.

Command:   python run_pretrain.py configs/tiny/gpt3_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'
Result:    on 23 novels (english_novels/[A-F]*.txt.gz): held-out perplexity 133 (unigram 550), accuracy 0.131 (unigram
           0.037); 3 minutes on a core of an AMD EPYC (family 25) that did other work too
"""

from dataclasses import replace

from configs.tiny.gpt3 import config as gpt3
from lmjax.data.prepare import WeightedData
from lmjax.data.sources import TextFiles
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = gpt3()
    data = replace(cfg.data[0].data, store="stores/files_gpt3", source=TextFiles(("texts/*.txt",)))
    return replace(cfg, directory="runs/files_gpt3", data=(WeightedData(data),))
