"""Words, phrases and entities of Chinese text: where they come from, and that masking keeps them whole."""

import itertools
import marshal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmjax.data import chinese
from lmjax.data.annotated import ENTITY_BEGIN, ENTITY_END
from lmjax.data.chinese import Boundaries, Segmenter, beginnings, flags_of, listed_runs, read_word_list, take_marks
from lmjax.data.masking import LEVELS, MaskingConfig, unit_numbers
from lmjax.data.tf import tensorflow
from lmjax.data.tokenizer_training import BERT_SPECIALS, to_bytes, wordpiece_pipeline
from lmjax.data.tokenizers import HuggingFaceTokenizer
from lmjax.errors import UserError
from tests.data.test_masking import chosen_of, make_keys, mask

CHARACTERS = "我们在北京大学读红楼梦他哈尔滨是黑龙江的省会城市，。"
TOKENS = [*BERT_SPECIALS, *dict.fromkeys(CHARACTERS), "hello", "##ing", "go", "2019"]


@pytest.fixture(scope="module")
def tokenizer() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(to_bytes(wordpiece_pipeline({t: i for i, t in enumerate(TOKENS)}, lowercase=True)))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Segmenter:
    pytest.importorskip("jieba")
    folder = tmp_path_factory.mktemp("lists")
    (folder / "phrases.txt").write_text("省会城市\t7\n城市 \t5\n")
    (folder / "places.txt").write_bytes("\ufeff黑龙江\t12\r哈尔滨\t9\r".encode())  # CR line ends and a byte order mark
    return Segmenter(Boundaries((str(folder / "phrases.txt"),), (str(folder / "places.txt"),)))


def encoded(sentence: str, tokenizer, segmenter) -> tuple[str, list[str]]:
    """The tokens, and for each level the sentence cut into its units, `-` where a token has none."""
    table = np.ones(tokenizer.vocab_size, np.uint8)
    table[list(tokenizer.special_ids)] = 0
    ((ids, flags),) = chinese.encode([sentence], tokenizer, table, segmenter)
    tokens, cut = [tokenizer.token(i).removeprefix("##") for i in ids], []
    for begins, inside in LEVELS.values():
        marks = ["|" if f & begins else "" if f & inside else "-" for f in flags]
        cut.append("".join(mark + token for mark, token in zip(marks, tokens, strict=True)))
    return "".join(tokens), cut


def test_each_level_has_its_own_units(tokenizer, segmenter):
    text, (words, phrases, entities) = encoded("哈尔滨是黑龙江的省会城市。", tokenizer, segmenter)
    assert text == "哈尔滨是黑龙江的省会城市。"
    assert words == "|哈尔滨|是|黑龙江|的|省会|城市|。"
    assert phrases == "-哈-尔-滨-是-黑-龙-江-的|省会城市-。"
    assert entities == "|哈尔滨-是|黑龙江-的-省-会-城-市-。"


def test_marked_entities_come_before_listed_ones(tokenizer, segmenter):
    marked = (
        f"他在{ENTITY_BEGIN}黑龙江的省会{ENTITY_END}，{ENTITY_BEGIN}北京{ENTITY_END}{ENTITY_BEGIN}大学{ENTITY_END}读"
    )
    text, (_, _, entities) = encoded(marked, tokenizer, segmenter)
    assert text == "他在黑龙江的省会，北京大学读"
    assert entities == "-他-在|黑龙江的省会-，|北京|大学-读"
    across = f"哈尔{ENTITY_BEGIN}滨是{ENTITY_END}"  # the listed entity would be cut in two
    assert encoded(across, tokenizer, segmenter)[1][2] == "-哈-尔|滨是"


def test_what_is_not_chinese_is_cut_at_spaces_and_signs(tokenizer, segmenter):
    text, (words, phrases, entities) = encoded("Hello going 2019 北京", tokenizer, segmenter)
    assert text == "hellogoing2019北京"
    assert words == "|hello|going|2019|北京"
    assert not set("|") & set(phrases + entities)


def test_a_special_token_in_the_text_belongs_to_no_unit(tokenizer, segmenter):
    table = np.ones(tokenizer.vocab_size, np.uint8)
    table[list(tokenizer.special_ids)] = 0
    ((ids, flags),) = chinese.encode(["北京[MASK]大学"], tokenizer, table, segmenter)
    assert (flags == 0).tolist() == [i == tokenizer.mask_id for i in ids]
    assert (flags == 0).sum() == 1


def test_marks_are_taken_out_and_an_open_one_goes_on():
    b, e = ENTITY_BEGIN, ENTITY_END
    assert take_marks("我们") == ("我们", [])
    assert take_marks(f"我{b}们在{e}北{b}京{e}") == ("我们在北京", [(1, 3), (4, 5)])
    assert take_marks(f"我们{e}在{b}北京") == ("我们在北京", [(0, 2), (3, 5)])


def test_the_longest_run_of_words_counts():
    ends = [0, 1, 2, 3, 4]
    assert listed_runs("abcd", ends, beginnings(["ab", "abc", "cd", "d"])) == [(0, 3), (3, 4)]
    assert listed_runs("abcd", ends, beginnings(["abcde", "ab", "bcd"])) == [(0, 2)]
    assert listed_runs("abcd", ends, {}) == []
    assert listed_runs("abc", [0, 2, 3], beginnings(["bc"])) == []  # it would cut a word


def test_word_lists_as_thuocl_has_them(shared_data, tmp_path):
    folder = shared_data("zh_lexicon")
    lists = {path.name: read_word_list(str(path)) for path in sorted(folder.glob("THUOCL_*.txt"))}
    assert {"美国", "北京", "医院"} <= lists["THUOCL_diming.txt"]  # CR line ends, byte order mark
    assert len(lists["THUOCL_diming.txt"]) > 44_000
    assert {"坚定不移"} <= lists["THUOCL_chengyu.txt"]  # a space before the tab
    assert not any("\t" in w or "\ufeff" in w or w != w.strip() for words in lists.values() for w in words)
    with pytest.raises(UserError, match=r"cannot read the word list .*none.txt"):
        read_word_list(str(tmp_path / "none.txt"))


# Rows of random units: each token's word, phrase and entity, with gaps; and special tokens anywhere.
LENGTH = 48
sizes = st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=LENGTH, max_size=LENGTH)


def numbered(drawn: list[tuple[int, bool]], gaps: bool) -> np.ndarray:
    return np.array([k if keep or not gaps else -1 for k, (n, keep) in enumerate(drawn) for _ in range(n)][:LENGTH])


@given(
    st.lists(st.tuples(sizes, sizes, sizes), min_size=8, max_size=8),
    st.integers(0, 2**20),
    st.sampled_from(list(LEVELS)),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_unit_is_ever_half_masked_at_its_level(rows, seed, unit):
    """Whole-unit draw: the tokens of a word, phrase or entity are all chosen or none, and meet the same fate; a token
    of no entity counts as of its phrase, and of no phrase as of its word."""
    units = [
        [numbered(words, False), numbered(phrases, True), numbered(entities, True)] for words, phrases, entities in rows
    ]
    special = np.random.default_rng(seed).random((len(rows), LENGTH)) < 0.05
    flags = np.where(special, 0, [flags_of(np.array(u)) for u in units]).astype(np.uint8)
    features = {
        "tokens": np.full((len(rows), LENGTH), 500, np.int32),
        "flags": flags,
        "segment_ids": np.ones((len(rows), LENGTH), np.int32),
    }
    for selection, room in (("ernie", 0), ("ernie", 5), ("bert", 12)):
        cfg = MaskingConfig(unit, 0.3, selection=selection, fate="unit", max_predictions=room, random_from=501)
        masked = mask(features, cfg, make_keys(np.arange(len(rows)), seed=seed))
        chosen = chosen_of(masked, LENGTH)
        assert not (chosen & special).any()
        fate = np.where(masked["tokens"] > 500, 501, masked["tokens"])  # kept, hidden or random
        for row, levels in enumerate(units):
            for level in range(list(LEVELS).index(unit) + 1):
                higher = levels[level + 1 : list(LEVELS).index(unit) + 1]
                free = np.all([n == -1 for n in higher], axis=0) if higher else np.ones(LENGTH, bool)
                for _, group in itertools.groupby(
                    np.flatnonzero(free & (levels[level] != -1) & ~special[row]),
                    key=lambda i, level=level, levels=levels, free=free: (levels[level][i], (~free[:i]).sum()),
                ):
                    members = list(group)
                    assert len({chosen[row, i] for i in members}) == 1
                    assert len({fate[row, i] for i in members}) == 1


def test_units_of_a_level_are_told_apart_by_their_begins():
    flags = np.array([[0, 1, 2, 1 + 16, 2 + 32, 1 + 16, 2, 4, 8, 1, 2]])
    numbers = {
        unit: unit_numbers(tensorflow().constant(flags), unit).numpy()[0].tolist() for unit in ("word", "entity")
    }
    assert numbers["word"] == [0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6]
    assert numbers["entity"] == [0, 1, 1, 2, 2, 3, 4, 5, 5, 6, 6]


def test_jieba_neither_reads_nor_writes_in_the_temporary_directory_and_warns_of_nothing(tmp_path, monkeypatch):
    """Also where it is compiled anew, and where its helper pkg_resources says that it is deprecated."""
    where = Path(pytest.importorskip("jieba").__file__).parent
    for name in [name for name in sys.modules if name.partition(".")[0] == "jieba"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "pkg_resources.py").write_text(
        "import warnings\nwarnings.warn('pkg_resources is deprecated')\n"
        f"resource_stream = lambda _, name: open({str(where)!r} + '/' + name, 'rb')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "compiled"))
    shared = tmp_path / "tmp"
    shared.mkdir()
    (shared / "jieba.cache").write_bytes(marshal.dumps(({"们在": 10**9, "们": 0}, 10**9)))  # what another user left
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    tokenizer = chinese._jieba.__wrapped__()
    assert list(tokenizer.cut("我们在北京大学")) == ["我们", "在", "北京大学"]
    assert [file.name for file in shared.iterdir()] == ["jieba.cache"]
    assert sys.modules["jieba._compat"].pkg_resources.__file__ == str(tmp_path / "pkg_resources.py")


def test_without_jieba_it_says_what_to_install(monkeypatch):
    chinese._jieba.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    with pytest.raises(UserError, match=r"pip install 'lmjax\[zh\]'"):
        Segmenter(Boundaries())
    chinese._jieba.cache_clear()
