"""What CMRC 2018's official script makes of the answers of `squad_cases.chinese_answers`: cmrc.npz, beside this file.

    python tests/golden/make_cmrc.py baseline/cmrc2018_evaluate.py   # of github.com/ymcui/cmrc2018

`figures` float64 [n, 2] holds EM and F1. NLTK's word_tokenize stands without its first step, which cuts sentences by a
model to download.
"""

import runpy
import sys
from pathlib import Path

import nltk
import numpy as np
import squad_cases as cases
from nltk.tokenize import NLTKWordTokenizer


def main() -> None:
    nltk.word_tokenize = NLTKWordTokenizer().tokenize
    official = runpy.run_path(sys.argv[1])
    figures = [
        [official[f"calc_{name}_score"](right, predicted) for name in ("em", "f1")]
        for right, predicted in cases.chinese_answers()
    ]
    np.savez_compressed(Path(__file__).with_name("cmrc.npz"), figures=np.array(figures, np.float64))


if __name__ == "__main__":
    main()
