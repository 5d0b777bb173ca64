"""The small model of `gpt2.py` on your own text files, plain or .gz.

Command:   python run_pretrain.py configs/tiny/gpt2_files.py --directory runs/mine --data.0.data.store stores/mine \\
               --data.0.data.source.paths 'texts/*.txt'

Result:    at 400 steps, on the 53 novels of english_novels: held-out loss 5.087 (unigram 6.656), perplexity 162,
           accuracy 0.150 (0.051); on WikiText-2's validation articles, a tenth held out: 5.274 (6.857), 195, 0.152
           (0.045). 8 minutes each on one core of an AMD EPYC (family 25).

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
