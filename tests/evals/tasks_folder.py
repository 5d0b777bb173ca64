"""A few rows for each zero- and few-shot task, in the official files' formats."""

import gzip
import json
from pathlib import Path
from typing import Any

ROWS: dict[str, list[dict[str, Any]]] = {
    "gpt_eval/lambada_openai.jsonl": [
        {"context": "The dog barked at the old", "continuation": "postman"},
        {"context": "Nobody knows why, said the", "continuation": "clerk"},
        {"context": "A river", "continuation": "bank"},
    ],
    "gpt_eval/winogrande.jsonl": [
        {
            "context_options": ["The dog saw Ann so Ann", "The dog saw Ann so the dog"],
            "continuation": "ran.",
            "gold": 1,
        },
        {"context_options": ["Bob met Tom so Bob", "Bob met Tom so Tom"], "continuation": "left.", "gold": 0},
    ],
    "gpt_eval/winograd_wsc.jsonl": [
        {"context_options": ["He hid it as he", "He hid it as it"], "continuation": "was afraid.", "gold": 0}
    ],
    "gpt_eval/piqa.jsonl": [
        {"query": "Question: dresser\n", "choices": ["replace drawer", "wood with pin"], "gold": 1},
        {"query": "Question: river\n", "choices": ["swim", "walk slowly away"], "gold": 0},
        {"query": "Question: dog\n", "choices": ["let it bark", "bark"], "gold": 0},
    ],
    "gpt_eval/arc_easy.jsonl": [
        {"query": "Question: What barks?\n", "choices": ["a dog", "a river", "the bank"], "gold": 0}
    ],
    "gpt_eval/arc_challenge.jsonl": [{"query": "Question: Who?\n", "choices": ["a dog", "it"], "gold": 1}],
    "gpt_eval/boolq.jsonl": [
        {"query": "Passage: Dogs bark.\nQuestion: do dogs bark?\n", "choices": ["no", "yes"], "gold": 1}
    ],
    "gpt_eval/triviaqa.jsonl": [
        {"context": "Question: Who barked?\nAnswer:", "answer": "The dog", "aliases": ["The dog", "A dog"]},
        {"context": "Question: Who ran?\nAnswer:", "answer": "Postman", "aliases": ["Postman"]},
    ],
    "nq_open/NQ-open.dev.jsonl": [{"question": "who barked", "answer": ["the dog", "a dog"]}],
    "cnn_dailymail/cnn_dailymail_3_0_0_news_summary.jsonl": [
        {
            "prompt": "Summarise the article:\n\nThe dog barked. The postman ran.\n",
            "completion": "Dog barked .\nPostman ran .<|endoftext|>",
        }
    ],
    "gpt3_tasks/two_digit_addition.jsonl": [
        {"context": "\n\nQ: What is 98 plus 45?\n\nA:", "completion": " 143"},
        {"context": "\n\nQ: What is 10 plus 11?\n\nA:", "completion": " 21"},
    ],
    "gpt3_tasks/two_digit_subtraction.jsonl": [{"context": "\n\nQ: What is 20 minus 5?\n\nA:", "completion": " 15"}],
    "gpt3_tasks/three_digit_addition.jsonl": [{"context": "\n\nQ: What is 556 plus 497?\n\nA:", "completion": " 1053"}],
    "gpt3_tasks/single_digit_three_ops.jsonl": [{"context": "\n\nQ: What is (4 - 7) - 3?\n\nA:", "completion": " -6"}],
    "gpt3_tasks/cycle_letters_in_word.jsonl.gz": [{"context": "\nasinoc =", "completion": " casino"}],
    "gpt3_tasks/reversed_words.jsonl.gz": [{"context": "\ntaefed =", "completion": " defeat"}],
    "blimp/a.jsonl.gz": [
        {"sentence_good": "The dog ran.", "sentence_bad": "The dog run."},
        {"sentence_good": "Dogs run.", "sentence_bad": "Dogs runs."},
    ],
    "blimp/b.jsonl.gz": [
        {"sentence_good": "A bank is here.", "sentence_bad": "A bank are here."},
        {"sentence_good": "Banks are here.", "sentence_bad": "Banks is here."},
    ],
}
OPENBOOKQA = (
    "ID\tQuestion Stem\tChoices\tComplete Question\tAnswer Key\n"
    "7-1\tThe sun is\t(A) cold (B) a star (C) blue (D) wood\tThe sun is (A) cold (B) a star (C) blue (D) wood\tB\n"
)
LINES = {
    "en": "A dog barks.\nA man runs.\n",
    "de": "Ein Hund bellt.\nEin Mann läuft.\n",
    "fr": "Un chien.\nUn homme.\n",
}
WIKI = """ \n = The dog = \n \n The dog , a well @-@ known animal ( 3 @.@ 1 ft ) , said " bark " . \n
 = = Name = = \n \n It 's old . \n \n = A bank = \n \n The clerk 's bank , 1 @,@ 000 . \n"""


def write_tasks(folder: Path) -> None:
    """The folder that --data names."""
    files = {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in ROWS.items()}
    files |= {f"openbookqa/{split}.tsv": OPENBOOKQA for split in ("train", "dev")}
    files |= {f"multi30k/{split}.{x}.gz": t for split in ("train", "test_2016_flickr") for x, t in LINES.items()}
    flores = {"eng_Latn": LINES["en"], "deu_Latn": LINES["de"], "zho_Hans": "狗叫。\n人跑。\n"}
    files |= {f"flores200/{language}.dev": text for language, text in flores.items()}
    files["wikitext-2/wiki.valid.raw"] = WIKI
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
