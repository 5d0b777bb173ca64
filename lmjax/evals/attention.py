"""Where a model looks: its attention probabilities for one text, as a page to explore and as pictures.

Letters: N layers, H heads, L tokens that look, S tokens that are looked at.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from etils import epath
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from lmjax.data.store import built_aside
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.evals.attention_page import PAGE
from lmjax.interop import LanguageModel

MOST_TOKENS = 128  # that a page shows
LABELLED = 32  # up to so many tokens are written beside the maps
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "Arial Unicode MS")


class View(NamedTuple):
    """`weights` float32 [N, H, L, S]: how much each of the `queries` looks at each of the `keys`; `name` is "encoder",
    "decoder" or "cross"."""

    name: str
    queries: list[str]
    keys: list[str]
    weights: np.ndarray


def attention_views(lm: LanguageModel, text: str = "", source: str = "", target: str = "") -> list[View]:
    """The attention of a model to one `text`, special tokens among the others; of a model that translates to `source`
    and `target` (its own translation where that is empty).

    Raises:
      UserError: a model without attention, a text that is missing or not for this model, or one that is too long.
    """
    if lm.reads_words:
        raise UserError("attention: this model is recurrent and has no attention")
    for_another = text if lm.translates else source + target
    if for_another.strip() or not (source if lm.translates else text).strip():
        wanted = "--source (and --target)" if lm.translates else "--text"
        raise UserError(f"attention: this model takes a text by {wanted}, which must not be empty, and nothing else")
    if lm.translates:
        features = lm.encode([(source, target.strip() or lm.translate(source)[0])])
        parts = {"encoder": ("encoder_",) * 2, "decoder": ("", ""), "cross": ("", "encoder_")}
    else:
        features = lm.encode(text)
        parts = {"decoder" if lm.causal else "encoder": ("", "")}
    names = {"encoder": "encoder_attentions" if lm.translates else "attentions", "cross": "cross_attentions"}
    names = {part: names.get(part, "attentions") for part in parts}
    longest = max(features[name].shape[1] for name in ("tokens", "encoder_tokens") if name in features)
    if longest > MOST_TOKENS:
        raise UserError(f"attention: the text has {longest} tokens; {MOST_TOKENS} can be shown")
    outputs = lm(**features, collect=tuple(names.values()))
    found = []
    for part, sides in parts.items():
        queries, keys = ([_label(lm.tokenizer, int(i)) for i in features[f"{side}tokens"][0]] for side in sides)
        found.append(View(part, queries, keys, np.asarray(outputs[names[part]][:, 0], np.float32)))
    return found


def _label(tokenizer: Tokenizer, token: int) -> str:
    """A token as one reads it: without the mark of a word's beginning, and bytes of a part of a character as they are
    written in the vocabulary."""
    text = "" if token in tokenizer.special_ids else tokenizer.decode([token]).strip()
    return tokenizer.token(token) if not text or "\N{REPLACEMENT CHARACTER}" in text else text


def write_attention(views: Sequence[View], title: str, directory: str) -> list[str]:
    """Writes DIRECTORY/attention.html and a picture NAME.png for each view; returns the files' names.

    Raises:
      UserError: the directory exists and is not empty.
    """
    path = epath.Path(directory).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already; choose another directory, or delete it")
    with built_aside(path) as building:
        (building / "attention.html").write_text(page(views, title))
        for view in views:
            _picture(view).savefig(str(building / f"{view.name}.png"), dpi=110)
        if path.exists():
            path.rmdir()
    return sorted(file.name for file in path.iterdir())


def page(views: Sequence[View], title: str) -> str:
    """One HTML file that needs nothing else. Weights are rounded to 1/255."""
    data = [
        {
            "name": view.name,
            "queries": view.queries,
            "keys": view.keys,
            "layers": view.weights.shape[0],
            "heads": view.weights.shape[1],
            "weights": base64.b64encode(np.rint(255 * view.weights).astype(np.uint8).tobytes()).decode(),
        }
        for view in views
    ]
    parts = {"title": html.escape(title), "data": json.dumps(data).replace("<", "\\u003c")}
    return re.sub("@(title|data)@", lambda match: parts[match[1]], PAGE)


def _picture(view: View) -> Figure:
    """Heads by layers, each a map: a row is a token that looks, a darker square a larger weight."""
    N, H, L, S = view.weights.shape
    size = min(max(2.2, 10 / H), max(1.1, 0.13 * max(L, S)))  # inches
    letters = min(7.5, max(4.5, 0.8 * 72 * size / max(L, S)))  # points, so that rows of them do not touch
    font, queries, keys = _lettering(view)
    with matplotlib.rc_context({"font.family": font, "font.size": 7}):
        figure = Figure(figsize=(size * H + 1.2, size * N * max(0.5, L / S) + 1.2), layout="constrained")
        axes: Any = figure.subplots(N, H, squeeze=False)
        for layer, head in np.ndindex(N, H):
            ax = axes[layer, head]
            ax.imshow(view.weights[layer, head], cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
            left, bottom = head == 0 and L <= LABELLED, layer == N - 1 and S <= LABELLED
            ax.set_yticks(range(L) if left else [], queries if left else [], fontsize=letters)
            ax.set_xticks(range(S) if bottom else [], keys if bottom else [], fontsize=letters, rotation=90)
            ax.set_title(f"head {head + 1}" if layer == 0 else "", fontsize=8)
            ax.set_ylabel(f"layer {layer + 1}" if head == 0 else "", fontsize=8)
        title = f"{view.name}: rows look at columns, the darker the more"
        if keys != _written(view.keys):
            title += "\ntokens by their numbers: no font on this machine has their letters"
        figure.suptitle(title, fontsize=9)
        figure.draw_without_rendering()
    return figure


def _lettering(view: View) -> tuple[str, list[str], list[str]]:
    """The first of FONTS on this machine that has every character, with the tokens; without one, their numbers."""
    files = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    letters = set(map(ord, "".join(view.queries + view.keys)))
    for name in FONTS:
        if name in files and letters <= FT2Font(files[name]).get_charmap().keys():
            return name, _written(view.queries), _written(view.keys)
    queries, keys = ([str(i + 1) for i in range(len(side))] for side in (view.queries, view.keys))
    return FONTS[0], queries, keys


def _written(tokens: Sequence[str]) -> list[str]:
    return [token.replace("$", r"\$") for token in tokens]  # two dollars would enclose a formula
