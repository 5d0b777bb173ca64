"""The small model of `gpt3.py` on your own text files, plain or .gz; a document is a file.

Command:   python run_pretrain.py configs/tiny/gpt3_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'
Result:    not measured
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
