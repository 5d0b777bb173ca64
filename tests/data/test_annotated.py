"""Entity spans of .ann files inside their texts."""

import io
import tarfile

import pytest

from lmjax.data.annotated import ENTITY_BEGIN, ENTITY_END, Span, entities, marked
from lmjax.data.chinese import take_marks
from lmjax.data.sources import Annotated, fingerprint, texts
from lmjax.errors import UserError

TEXT = "我在北京\n大学读书。\n后来到了哈尔滨"
ANN = "T1\tOrg 2 4;5 7\t北京 大学\n*\tCoreference T2 T1\nR1\tLocated Arg1:T1 Arg2:T2\nT2\tLocation 15 18\t哈尔滨\n"


def shown(text: str) -> str:
    return text.replace(ENTITY_BEGIN, "<").replace(ENTITY_END, ">")


def test_spans_are_read_with_their_pieces_joined():
    assert entities(ANN) == [Span(2, 7, "北京 大学"), Span(15, 18, "哈尔滨")]


def test_marks_stand_around_entities_and_wrapped_lines_are_joined():
    spans = entities(ANN)
    assert shown(marked(TEXT, spans, width=4)) == "我在<北京大学>读书。\n后来到了<哈尔滨>"
    assert shown(marked(TEXT, spans, width=0)) == "我在<北京\n大学>读书。\n后来到了<哈尔滨>"
    assert take_marks(marked(TEXT, spans, 4))[0] == TEXT.replace("\n", "", 1)


def test_of_overlapping_entities_the_first_and_longest_stays():
    spans = [Span(1, 3, ""), Span(0, 2, ""), Span(0, 4, ""), Span(4, 5, "")]
    assert shown(marked("abcdef", spans, 0)) == "<abcd><e>f"


def test_folders_and_archives_read_alike(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.ann").write_text(ANN)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for name, text in (("part/a.txt", TEXT), ("part/a.ann", ANN)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    source = Annotated((str(tmp_path / "*.txt"),), width=4)
    ((name, group, text),) = texts(source)
    assert (name, group) == ("a.txt", "a.txt")
    ((member, _, same),) = texts(Annotated((str(tmp_path / "*.tar.gz"),), width=4))
    assert (member, same) == ("all.tar.gz/part/a.txt", text)
    before = fingerprint(source)
    (tmp_path / "a.ann").write_text(ANN + "T3\tPerson 0 1\t我\n")
    assert fingerprint(source) != before
    (tmp_path / "a.ann").write_text(ANN + "T3\tPerson 0 1\t你\n")
    with pytest.warns(UserWarning, match="1 of 3 annotated entities are not what their text reads"):
        assert list(texts(source)) == [("a.txt", "a.txt", text)]
    (tmp_path / "a.ann").unlink()
    with pytest.raises(UserError, match=r"a.txt has no annotations: a.ann should lie beside it"):
        list(texts(source))


@pytest.mark.filterwarnings("ignore:.*annotated entities")
def test_the_literature_set_reads_whole(shared_data):
    source = Annotated((str(shared_data("zh_literature/valid.tar.gz")),), width=60)
    found = list(texts(source))
    assert len(found) == 58
    spans = sum(text.count(ENTITY_BEGIN) for _, _, text in found)
    assert spans == sum(text.count(ENTITY_END) for _, _, text in found)
    assert spans > 11_000
    cut = sum("\n" in text[a:b] for _, _, t in found for text, marks in [take_marks(t)] for a, b in marks)
    assert cut < 0.001 * spans
