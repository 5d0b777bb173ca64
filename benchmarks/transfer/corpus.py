"""The English text of the shared data as plain files, a form feed between two documents."""

import json
import re
import zipfile
from pathlib import Path

from lmjax.data.sources import TextFiles
from lmjax.train.files import write_atomically

DOCUMENT_END = "\n\f\n"
TOKENISED = ("brown", "wikitext")  # whose words and punctuation marks stand apart, as ELMo reads them


def write_english(data: Path, folder: Path) -> None:
    """FOLDER/NAME.txt for each set below; those that are there stay."""
    sets = {
        "abc": abc_news,
        "brown": brown,
        "c4": lambda data: [json.loads(line)["text"] for line in _lines(data / "wiki_c4_demo/c4_demo.jsonl")],
        "movie_reviews": lambda data: _archive(data / "movie_reviews/movie_reviews.zip", r"\.txt$"),
        "state_union": lambda data: _archive(data / "state_union/state_union.zip", r"\.txt$"),
        "wiki": lambda data: _lines(data / "wiki_c4_demo/wiki_demo.txt"),
        "wikitext": wikitext,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, read in sets.items():
        file = folder / f"{name}.txt"
        if not file.exists():
            write_atomically(file, DOCUMENT_END.join(read(data)))


def source(data: Path, folder: Path) -> TextFiles:
    """All of it, and those of the novels that the 20th century printed."""
    return TextFiles((f"{folder}/*.txt", f"{data}/english_novels/*_19??.txt.gz"), documents="regex", pattern="\f")


def tokenised(folder: Path) -> TextFiles:
    return TextFiles(tuple(f"{folder}/{name}.txt" for name in TOKENISED), documents="regex", pattern="\f")


def abc_news(data: Path) -> list[str]:
    """A document is a block between blank lines."""
    files = _archive(data / "abc_news/abc.zip", r"\.txt$")
    return [block for text in files for block in re.split(r"\n\s*\n", text)]


def brown(data: Path) -> list[str]:
    """Without the tags behind the words."""
    files = _archive(data / "brown_corpus/brown.zip", r"/c[a-r]\d\d$")
    plain = (re.sub(r"(\S+)/\S+", r"\1", text) for text in files)
    return [re.sub(r"``|''", '"', text) for text in plain]


def wikitext(data: Path) -> list[str]:
    """A document is an article; hyphens, commas and points inside words and numbers no longer stand apart."""
    text = (data / "wikitext-2/wiki.valid.raw").read_text(encoding="utf-8")
    text = re.sub(r" @([-.,])@ ", r"\1", text)
    return [article for article in re.split(r"(?m)(?=^ = [^=])", text) if article.strip()]


def _archive(path: Path, pattern: str) -> list[str]:
    """The members of an archive whose names match, as UTF-8 or else as Latin-1."""
    with zipfile.ZipFile(path) as archive:
        return [_decoded(archive.read(name)) for name in sorted(archive.namelist()) if re.search(pattern, name)]


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
