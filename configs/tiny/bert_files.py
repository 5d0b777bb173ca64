"""The small model of `bert.py` on your own text files, plain or .gz.

Command:   python run_pretrain.py configs/tiny/bert_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'

Result:    at 400 steps, on the 53 novels of english_novels: held-out MLM loss 6.108 (unigram 6.470), accuracy 0.110
           (0.056), NSP accuracy 0.576 (majority 0.516); on WikiText-2's validation articles, a tenth held out: 6.419
           (6.764), 0.101 (0.054), 0.513 (0.513). 4 minutes each on one core of an AMD EPYC (family 25).

A document is a file, and sentences are split by rule; for other texts see `--data.0.data.source.documents`
(blank_line, line, or regex with `--data.0.data.source.pattern`) and `--data.0.data.sentences` (line where each line is
a sentence).
"""

from dataclasses import replace

from configs.tiny.bert import config as bert
from lmjax.data.prepare import WeightedData
from lmjax.data.sources import TextFiles
from lmjax.run import RunConfig


def config() -> RunConfig:
    cfg = bert()
    data = replace(cfg.data[0].data, store="stores/files_bert", source=TextFiles(("texts/*.txt",)), sentences="split")
    return replace(cfg, directory="runs/files_bert", data=(WeightedData(data),))
