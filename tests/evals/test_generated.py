"""Normalisations and metrics of generated text against values worked out by hand."""

import pytest
import sacrebleu

from lmjax.evals.generated import bleu, exact_match, nq_normalized, rouge, triviaqa_normalized
from lmjax.tasks.answers import normalize


@pytest.mark.parametrize(
    ("text", "squad", "nq", "triviaqa"),
    [
        ("  The  Beatles!", "beatles", "beatles", "beatles"),
        ("an Apple, a day", "apple day", "apple day", "apple day"),
        ("Jay-Z's", "jayzs", "jayzs", "jay z s"),
        ("theatre", "theatre", "theatre", "theatre"),
        ("‘Help’ snake_case", "‘help’ snakecase", "‘help’ snakecase", "help snake case"),
        ("Beyoncé", "beyonc\u00e9", "beyonce\u0301", "beyonc\u00e9"),
    ],
)
def test_normalisations(text, squad, nq, triviaqa):
    assert (normalize(text), nq_normalized(text), triviaqa_normalized(text)) == (squad, nq, triviaqa)


def test_exact_match_takes_any_accepted_answer():
    references = [["14 December 1972 UTC", "December 1972"], ["Bob"], ["An answer."], ["no"]]
    texts = ["december 1972", "bobby", "answer", ""]
    assert exact_match(nq_normalized)(texts, references) == {"exact_match": 0.5}
    assert exact_match()(["143", " 14 "], [["143"], ["143"]]) == {"exact_match": 0.5}


def test_bleu_is_sacrebleus():
    same = ["The dog barked at the old postman .", "Nobody knows why ."]
    found = bleu()(same, [[text] for text in same])
    assert found["bleu"] == pytest.approx(100)
    assert str(found["signature"]).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    said, wanted = (
        ["The dog barked at the man .", "Who knows ?"],
        [["The old dog barked at a man ."], ["Nobody knows ."]],
    )
    scored = sacrebleu.corpus_bleu(said, [[text for (text,) in wanted]]).score
    assert bleu()(said, wanted)["bleu"] == scored
    assert bleu()([text for (text,) in wanted], [[text] for text in said])["bleu"] != scored
    assert "tok:zh" in str(bleu("zh")(["他走了"], [["他走了"]])["signature"])


def test_rouge():
    """One of two words and no pair of words are shared; over lines, the longest common part of each line counts."""
    found = rouge(["dogs barked"], [["a dog ran"]])
    assert found == pytest.approx({"rouge1": 40, "rouge2": 0, "rougeLsum": 40, "rouge_mean": 80 / 3})  # dog(s): stems
    swapped = rouge(["a dog ran\nthe cat slept"], [["the cat slept\na dog ran"]])
    assert swapped["rougeLsum"] == pytest.approx(100)
