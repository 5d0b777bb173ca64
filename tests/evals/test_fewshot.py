"""The exact prompt of each task, its demonstrations, and complaints about its files."""

import dataclasses
import json

import pytest
from etils import epath

from lmjax.errors import UserError
from lmjax.evals.fewshot import TASKS, Task, draw, rows_of, three_sentences
from lmjax.evals.readers import wikitext_detokenized
from tests.evals.tasks_folder import ROWS, write_tasks


@pytest.fixture
def folder(tmp_path):
    write_tasks(tmp_path)
    return epath.Path(tmp_path)


# task: its first row's options as (context, target), and the right one's number or the accepted answers
PROMPTS = {
    "lambada": ([("The dog barked at the old", " postman")], ["postman"]),
    "lambada_filtered": ([("The dog barked at the old", " postman")], ["postman"]),
    "lambada_cloze": ([("The dog barked at the old ____. ->", " postman")], ["postman"]),
    "winogrande": ([("The dog saw Ann so Ann", " ran."), ("The dog saw Ann so the dog", " ran.")], 1),
    "wsc": ([("He hid it as he", " was afraid."), ("He hid it as it", " was afraid.")], 0),
    "piqa": ([("Question: dresser\nAnswer:", f" {x}") for x in ("replace drawer", "wood with pin")], 1),
    "arc_easy": ([("Question: What barks?\nAnswer:", f" {x}") for x in ("a dog", "a river", "the bank")], 0),
    "arc_challenge": ([("Question: Who?\nAnswer:", f" {x}") for x in ("a dog", "it")], 1),
    "boolq": ([("Passage: Dogs bark.\nQuestion: do dogs bark?\nAnswer:", f" {x}") for x in ("no", "yes")], 1),
    "openbookqa": ([("The sun is", f" {x}") for x in ("cold", "a star", "blue", "wood")], 1),
    "triviaqa": ([("Question: Who barked?\nAnswer:", " The dog")], ["The dog", "A dog"]),
    "nq": ([("Q: who barked?\n\nA:", " the dog")], ["the dog", "a dog"]),
    "multi30k_en_de": ([("A dog barks. =", " Ein Hund bellt.")], ["Ein Hund bellt."]),
    "multi30k_de_en": ([("Ein Hund bellt. =", " A dog barks.")], ["A dog barks."]),
    "multi30k_en_fr": ([("A dog barks. =", " Un chien.")], ["Un chien."]),
    "flores_en_de": ([("A dog barks. =", " Ein Hund bellt.")], ["Ein Hund bellt."]),
    "flores_de_en": ([("Ein Hund bellt. =", " A dog barks.")], ["A dog barks."]),
    "flores_en_zh": ([("A dog barks. =", " 狗叫。")], ["狗叫。"]),
    "flores_zh_en": ([("狗叫。 =", " A dog barks.")], ["A dog barks."]),
    "cnn_dailymail": (
        [("The dog barked. The postman ran.\nTL;DR:", " Dog barked .\nPostman ran .")],
        ["Dog barked .\nPostman ran ."],
    ),
    "add_2_digits": ([("Q: What is 98 plus 45?\n\nA:", " 143")], ["143"]),
    "subtract_2_digits": ([("Q: What is 20 minus 5?\n\nA:", " 15")], ["15"]),
    "add_3_digits": ([("Q: What is 556 plus 497?\n\nA:", " 1053")], ["1053"]),
    "three_operations": ([("Q: What is (4 - 7) - 3?\n\nA:", " -6")], ["-6"]),
    "cycle_letters": ([("asinoc =", " casino")], ["casino"]),
    "reversed_words": ([("taefed =", " defeat")], ["defeat"]),
    "blimp": ([("", "The dog ran."), ("", "The dog run.")], 0),
}


@pytest.mark.parametrize("name", TASKS)
def test_prompts(name, folder):
    task = TASKS[name]
    rows = rows_of(task, folder, task.files)
    if task.kind == "perplexity":
        assert [row["text"][:12] for row in rows] == ["= The dog = ", "= A bank = \n"]
        return
    options, answer = PROMPTS[name]
    assert task.options(rows[0]) == options
    assert (rows[0][task.gold] if task.choices else task.accepted(rows[0])) == answer
    assert task.demonstration(rows[0]) == "".join(options[answer if task.choices else 0])


def test_without_a_demonstration_a_translation_names_its_language():
    """The caption of Brown et al.'s figure G.36."""
    row = {"source": "A dog barks.", "target": "Ein Hund."}
    for name, language in (("flores_en_de", "German"), ("multi30k_en_fr", "French"), ("flores_en_zh", "Chinese")):
        (option,) = TASKS[name].zero_shot().options(row)
        assert option == (f"Q: What is the {language} translation of A dog barks. A:", " Ein Hund.")
    assert TASKS["piqa"].zero_shot() == TASKS["piqa"]


def test_minimal_pairs_come_from_each_paradigm_in_turn(folder):
    """And a short paradigm ends none of the others."""
    wanted = ["The dog ran.", "A bank is here.", "Dogs run.", "Banks are here."]
    assert [row["sentences"][0] for row in rows_of(TASKS["blimp"], folder, TASKS["blimp"].files, 3)] == wanted[:3]
    (folder / "blimp/b.jsonl").write_text(json.dumps(ROWS["blimp/b.jsonl.gz"][0]) + "\n")
    rows = rows_of(TASKS["blimp"], folder, ["blimp/a.jsonl.gz", "blimp/b.jsonl"])
    assert [row["sentences"][0] for row in rows] == wanted[:3]


def test_demonstrations_follow_the_seed_and_are_never_the_row_itself():
    pool = [{"context": str(i)} for i in range(20)]
    assert draw(pool, 5, 0, 3, pool[3]) == draw(pool, 5, 0, 3, pool[3])
    assert draw(pool, 5, 0, 3, pool[3]) != draw(pool, 5, 1, 3, pool[3])
    assert draw(pool, 5, 0, 3, pool[3]) != draw(pool, 5, 0, 4, pool[3])
    for number, row in enumerate(pool):
        found = draw(pool, 19, 0, number, row)
        assert sorted(int(r["context"]) for r in found) == [i for i in range(20) if i != number]
    with pytest.raises(UserError, match="20 demonstrations were asked for, and there are 19 rows"):
        draw(pool, 20, 0, 3, pool[3])


def test_wikitext_is_joined_again():
    text = " = A dog = \n \n \" Well @-@ known \" , 1 @,@ 000 ( or 3 @.@ 1 % ) , it 's [ sic ] : don 't ; £ 3 . \n"
    expected = " = A dog =\n\"Well-known\", 1,000 (or 3.1%), it's [sic]: don't; £3.\n"
    assert wikitext_detokenized(text) == expected
    assert wikitext_detokenized("x \n = = = Deep = = = \n y") == "x\n=== Deep ===\ny"


def test_three_sentences():
    assert three_sentences(" One ran. Two sat. Three. Four went.") == "One ran.\nTwo sat.\nThree."


BROKEN = [
    ("piqa", {"query": "Question: x\n", "choices": ["a", "b"]}, r"piqa.jsonl, line 2: no column 'gold'"),
    ("piqa", {"query": " ", "choices": ["a", "b"], "gold": 0}, r"line 2: column 'query' is empty"),
    ("piqa", {"query": "x", "choices": ["a", ""], "gold": 0}, r"line 2: column 'choices' is empty"),
    ("piqa", {"query": "x", "choices": [], "gold": 0}, r"line 2: column 'choices' is empty"),
    ("piqa", {"query": "x", "choices": "ab", "gold": 0}, r"line 2: column 'choices' is str, not list"),
    ("piqa", {"query": "x", "choices": ["a", "b"], "gold": 2}, r"line 2: column 'gold' is 2 of 2 choices"),
    ("lambada", {"contxt": "x", "continuation": "y"}, r"line 2: no column 'context'; did you mean 'contxt'"),
    ("cnn_dailymail", {"prompt": "x"}, r"line 2: no column 'article'"),
    ("nq", {"question": "who", "answer": []}, r"line 2: column 'answer' is empty"),
    ("nq", {"question": "who", "answer": ["x", 1984]}, r"line 2: column 'answer' holds 1984, which is no text"),
]


@pytest.mark.parametrize(("name", "row", "complaint"), BROKEN)
def test_rows_that_are_not_as_they_should_be(name, row, complaint, folder):
    (file,) = TASKS[name].files
    (folder / file).write_text(json.dumps(ROWS[file][0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=complaint):
        rows_of(TASKS[name], folder, [file])


def test_files_that_are_not_there_or_hold_nothing(folder):
    with pytest.raises(UserError, match=r"no file .*/none.jsonl; --data or LMJAX_DATA"):
        rows_of(TASKS["piqa"], folder, ["none.jsonl"])
    with pytest.raises(UserError, match=r"no file .*/none/\*.gz"):
        rows_of(TASKS["blimp"], folder, ["none/*.gz"])
    (folder / "empty").write_text("")
    with pytest.raises(UserError, match="empty holds no rows"):
        rows_of(TASKS["piqa"], folder, ["empty"])
    with pytest.raises(UserError, match="empty has no question with 4 choices"):
        rows_of(TASKS["openbookqa"], folder, ["empty"])
    (folder / "short").write_text("one line\n")
    with pytest.raises(UserError, match="have not as many lines"):
        rows_of(TASKS["flores_en_de"], folder, ["flores200/deu_Latn.dev", "short"])


def test_a_record_names_the_columns_it_needs():
    assert dataclasses.is_dataclass(Task)
    assert TASKS["nq"].columns == {"question": str, "answer": list}
    assert TASKS["winogrande"].columns == {"continuation": str, "context_options": list, "gold": int}


@pytest.mark.parametrize("name", TASKS)
def test_the_real_files_are_read(name, shared_data):
    task, root = TASKS[name], epath.Path(shared_data("README.md")).parent
    for file in task.files + task.demonstrations:
        shared_data(file.partition("/*")[0])
    rows = rows_of(task, root, task.files, 50)
    assert len(rows) == 50
    assert not task.demonstrations or rows_of(task, root, task.demonstrations, 5)
