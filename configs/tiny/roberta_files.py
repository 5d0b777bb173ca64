"""The small model of `roberta.py` on your own text files, plain or .gz; by default a document is a file.

Command:   python run_pretrain.py configs/tiny/roberta_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'
Measured:  `--data.0.data.source.paths 'DATA/english_novels/[A-C]*.txt.gz' --stages.0.until-step 400 --optim.warmup 40
           --evaluation.every 200` on one core of a shared 2-core machine, jax 0.10.2: 4 minutes with the data; held-out
           MLM loss 6.131 (unigram 6.794), accuracy 0.134 (unigram 0.050)
"""

from dataclasses import replace

from configs.tiny.roberta import config as roberta
from lmjax.data.prepare import WeightedData
from lmjax.data.sources import TextFiles
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = roberta()
    data = replace(
        cfg.data[0].data, store="stores/files_roberta", source=TextFiles(("texts/*.txt",)), sentences="split"
    )
    return replace(cfg, directory="runs/files_roberta", data=(WeightedData(data),))
