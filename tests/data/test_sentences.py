"""Sentences join to their text, wraps are undone, and Chinese ends at 。！？ with the quotes after it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.data.sentences import documents, split_lines, split_sentences, unwrap
from lmjax.data.sources import TextFiles

WRAPPED = """\
It was late when the ferry came in, and the keeper, who had waited since
noon beside the lamp, was asleep. Nobody woke him. "Let him be," said Mrs.
Gray; "he has earned it."
The others went up the hill without a word, each with a lantern in his
hand, while the rain fell.

CHAPTER II

Morning came late to the harbour. It was grey and still and the gulls had
gone inland."""


def test_lines():
    assert split_lines("One.\n\n  two  \n \nthree") == ["One.", "\n\n  two  ", "\n \nthree"]
    assert split_lines(" \n\t\n") == split_lines("") == []


@given(st.text(alphabet="ab .\n\t。？“”\"'", max_size=60))
def test_lines_join_to_the_text(text):
    assert "".join(split_lines(text)).rstrip() == text.rstrip()


@given(st.text(alphabet="aB .!?\n。！？“”』\"'", max_size=60))
def test_splitting_loses_nothing_but_whitespace(text):
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence.strip() == sentence[1:] or sentence.strip() == sentence for sentence in found)


def test_english():
    text = (
        'Mr. Gray paid 3.5 pounds to Dr. Lee. "Is it so?" he asked. They left at 5 p.m. The U.S. won. See Fig. 3. No.'
    )
    assert split_sentences(text) == [
        "Mr. Gray paid 3.5 pounds to Dr. Lee.",
        ' "Is it so?" he asked.',
        " They left at 5 p.m.",
        " The U.S. won.",
        " See Fig. 3.",
        " No.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他来了。她走了！真的？好", ["他来了。", "她走了！", "真的？", "好"]),
        ("他说：“你来了吗？”她笑道：「来了。」", ["他说：“你来了吗？”", "她笑道：「来了。」"]),
        ("“今日晴。明日雨。”他道。", ["“今日晴。", "明日雨。”", "他道。"]),
        ("『甚么？』他问。（完。）", ["『甚么？』", "他问。", "（完。）"]),
        ("什么！？真的。", ["什么！？", "真的。"]),
        ("他道：“走！”？我走。", ["他道：“走！”？", "我走。"]),
        ("他问：“你说‘是吗？’”我答。", ["他问：“你说‘是吗？’”", "我答。"]),
        ("我用Python。It works. She said so. 真好。", ["我用Python。", "It works.", " She said so.", " 真好。"]),
    ],
)
def test_chinese(text, expected):
    assert split_sentences(text) == expected


def test_hard_wrapped_text():
    assert unwrap(WRAPPED) == [
        "It was late when the ferry came in, and the keeper, who had waited since noon beside the lamp, was asleep. "
        'Nobody woke him. "Let him be," said Mrs. Gray; "he has earned it."',
        "The others went up the hill without a word, each with a lantern in his hand, while the rain fell.",
        "CHAPTER II",
        "Morning came late to the harbour. It was grey and still and the gulls had gone inland.",
    ]
    assert split_sentences(WRAPPED)[1:4] == [
        " Nobody woke him.",
        ' "Let him be," said Mrs. Gray; "he has earned it."',
        "\nThe others went up the hill without a word, each with a lantern in his hand, while the rain fell.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "bread\nmilk\neggs\ncheese\nbutter",  # a list
        f"{'word ' * 60}\n{'word ' * 59}\n{'word ' * 60}",  # a paragraph a line
        "他来了她走了" * 9 + "\n" + "真的好" * 18,  # no spaces, a sentence a line
        "",
    ],
)
def test_text_that_is_not_wrapped(text):
    assert unwrap(text) == [line.strip() for line in text.split("\n") if line]


def test_a_blank_line_is_no_wrap():
    address = "https://" + "x" * 70  # as long as a line by itself
    assert unwrap(f"{WRAPPED}\n\n{address}")[-1] == address


def test_documents(tmp_path):
    (tmp_path / "x.txt").write_text("One. Two.\n\n  \n\nThree.\n")
    source = TextFiles((f"{tmp_path}/*.txt",), documents="blank_line")
    assert next(documents(source, "split")) == ("x.txt:1", "x.txt:1", ["One.", " Two."])
    assert [d.sentences for d in documents(source, "line")] == [["One. Two."], ["Three."]]
    (tmp_path / "empty.txt").write_text(" \n\n")
    assert list(documents(TextFiles((f"{tmp_path}/empty.txt",)), "line")) == []


def test_real_novels(shared_data):
    paths = tuple(
        str(shared_data(f"{n}.txt.gz")) for n in ("english_novels/Conrad_Almayer_1895", "zh_novels/sanguo_yanyi")
    )
    english, chinese = documents(TextFiles(paths), "split")
    assert 2500 < len(english.sentences) < 4000
    cut = sum(bool(re.match(r"\n[a-z]", s)) for s in english.sentences)
    assert cut < 0.01 * len(english.sentences)  # hard-wrapped without blank lines between paragraphs
    assert not any(s.strip()[0] in "”’」』）。！？" for s in chinese.sentences)
    assert sum(len(re.findall("[。！？]+[^。！？”’」』）》]", s)) for s in chinese.sentences) == 0
