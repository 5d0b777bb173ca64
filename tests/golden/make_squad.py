"""What transformers 4.57.1 and seqeval make of the cases of `squad_cases`: squad.npz, beside this file.

transformers 5 has no code for SQuAD; so this runs in an environment of its own:

    python -m venv /tmp/squad && /tmp/squad/bin/pip install transformers==4.57.1 seqeval==1.2.2 numpy
    /tmp/squad/bin/python tests/golden/make_squad.py

OUT holds 64-bit digests of each window (`windows`) and each n-best list (`v1`, `v2`), in order, the odds of no answer
(`odds`), EM and F1 of answers (`figures` [n, 2]), the best F1 by a threshold (`best_f1`), and of the tags of each
sentence precision, recall and F1 (`entities`), and F1 in seqeval's strict mode (`strict_entities`).
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import squad_cases as cases
import transformers
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from transformers.data.metrics import squad_metrics
from transformers.data.processors import squad as processors


def examples() -> list[Any]:
    """Questions for training: with the place of their answer."""
    found = []
    for paragraph in cases.squad()["data"][0]["paragraphs"]:
        for asked in paragraph["qas"]:
            answer = asked["answers"][0] if asked["answers"] else {"text": None, "answer_start": None}
            found.append(
                processors.SquadExample(
                    qas_id=asked["id"],
                    question_text=asked["question"],
                    context_text=paragraph["context"],
                    answer_text=answer["text"],
                    start_position_character=answer["answer_start"],
                    title="",
                    answers=asked["answers"],
                    is_impossible=asked["is_impossible"],
                )
            )
    return found


def window(feature: Any) -> int:
    first = feature.tokens.index("[SEP]") + 1
    most = [feature.token_is_max_context[first + i] for i in range(feature.paragraph_len)]
    return cases.digest(
        feature.qas_id, feature.input_ids, feature.token_type_ids, int(feature.start_position),
        int(feature.end_position), most,
    )  # fmt: skip


def spans(folder: Path) -> dict[str, np.ndarray]:
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("".join(f"{token}\n" for token in cases.VOCABULARY))
    tokenizer, asked = transformers.BertTokenizer(str(vocabulary), do_lower_case=True), examples()
    features = processors.squad_convert_examples_to_features(
        asked, tokenizer, cases.SETTINGS["length"], cases.SETTINGS["stride"], cases.SETTINGS["query_length"],
        is_training=True, tqdm_enabled=False,
    )  # fmt: skip
    results = [
        processors.SquadResult(feature.unique_id, *(x.tolist() for x in cases.logits(row)))
        for row, feature in enumerate(features)
    ]
    found = {"windows": np.array([window(feature) for feature in features], np.uint64)}
    for version in (1, 2):
        files = [str(folder / name) for name in ("predictions.json", "nbest.json", "odds.json")]
        squad_metrics.compute_predictions_logits(
            asked, features, results, cases.N_BEST, cases.ANSWER_LENGTH, True, *files, False, version == 2, 0.0,
            tokenizer,
        )  # fmt: skip
        lists = json.loads(Path(files[1]).read_text())
        found[f"v{version}"] = np.array(
            [
                cases.digest([(c["text"], c["start_logit"], c["end_logit"]) for c in lists[example.qas_id]])
                for example in asked
            ],
            np.uint64,
        )
    odds = json.loads((folder / "odds.json").read_text())
    return found | {"odds": np.array([odds[example.qas_id] for example in asked])}


def figures() -> np.ndarray:
    found = []
    for number, (right, predicted) in enumerate(cases.answers()):
        example = processors.SquadExample(str(number), "", "", None, None, "", [{"text": text} for text in right], True)
        exact, f1 = squad_metrics.get_raw_scores([example], {str(number): predicted})
        found.append((exact[str(number)], f1[str(number)]))
    return np.array(found, np.float64)


def best_f1() -> np.ndarray:
    found = []
    for case in cases.thresholds():
        names = [str(i) for i in range(len(case["odds"]))]
        scores, odds, has = (dict(zip(names, case[k].tolist(), strict=True)) for k in ("scores", "odds", "answerable"))
        best, _ = squad_metrics.find_best_thresh(dict.fromkeys(names, "some answer"), scores, odds, has)
        found.append(best / 100)
    return np.array(found)


def entities(**mode: Any) -> np.ndarray:
    rows = [
        [score([right], [predicted], zero_division=0, **mode) for score in (precision_score, recall_score, f1_score)]
        for right, predicted in cases.tags()
    ]
    return np.array(rows, np.float64)


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = spans(Path(folder))
    found |= {"figures": figures(), "best_f1": best_f1(), "entities": entities()}
    found["strict_entities"] = entities(mode="strict", scheme=IOB2)[:, 2]
    np.savez_compressed(Path(__file__).with_name("squad.npz"), **found)


if __name__ == "__main__":
    main()
