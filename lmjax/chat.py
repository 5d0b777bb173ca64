"""A conversation with a model in a terminal, or over a pipe: a line in, an answer out, token by token.

What people write is text, whatever it spells (`data.chat_template`). The history that a model sees is cut by whole
exchanges, the oldest first; a system turn stays.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lmjax.data.chat_template import ChatTemplate, Turn, prompt_tokens
from lmjax.data.tokenizers import Tokenizer
from lmjax.errors import UserError
from lmjax.generate import Sampling, stream
from lmjax.interop import LanguageModel
from lmjax.models.architecture import check_use

UNFINISHED = "\ufffd"  # what a character decodes to whose bytes are not all there
HELP = "/help shows this, /reset forgets the conversation, /quit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(lm: LanguageModel, sampling: Sampling, system: str = "", seed: int = 0) -> None:
    """Talks with whoever is at the standard input until that ends or says /quit.

    `sampling`: an answer takes at most half of the context, whatever `max_new_tokens` says. Answer k (from 0; /reset
    goes on counting) is drawn from seed + k.

    Raises:
      UserError: a model that predicts no next tokens, or has no chat template; over a pipe, a message that is too long
        for the model.
    """
    check_use(lm.config, lm.heads, "generate")
    template, person = lm.chat_template, sys.stdin.isatty()
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, lm.longest // 2))
    begin = [Turn("system", system)] if system else []
    turns, count = list(begin), 0
    if person:
        print(HELP)
    for message in map(str.strip, _typed() if person else _piped()):
        if message == "/quit":
            return
        if message == "/reset":
            turns = list(begin)
        elif person and message.startswith("/"):
            print(HELP if message == "/help" else f"no command {message.split()[0]}; {HELP}")
        elif message:
            asked, room = [*turns, Turn("user", message)], lm.longest - sampling.max_new_tokens
            try:
                turns = fitted(template, lm.tokenizer, asked, room)
            except UserError as error:
                if not person:
                    raise
                print(f"lmjax: {error}", file=sys.stderr)
                continue
            if person and len(turns) < len(asked):
                print(f"({len(asked) - len(turns)} older turns do not fit, and are left out from now on)")
            turns.append(Turn("assistant", _say(answer(lm, turns, sampling, seed + count), person)))
            count += 1


def fitted(template: ChatTemplate, tokenizer: Tokenizer, turns: Sequence[Turn], room: int) -> list[Turn]:
    """The turns, which end with a user's, without so many of the oldest exchanges that the prompt has `room` tokens.

    Raises:
      UserError: the last turn alone is too long.
    """
    system, rest = [turn for turn in turns if turn.role == "system"], [turn for turn in turns if turn.role != "system"]
    while (size := len(prompt_tokens(template, tokenizer, [*system, *rest]))) > room:
        if len(rest) == 1:
            needed = f"a prompt of {size} tokens, and the model has room for {room}"
            raise UserError(f"the message makes {needed}; shorten it, or the answers by --max-new-tokens")
        rest = rest[2:]
    return [*system, *rest]


def answer(lm: LanguageModel, turns: Sequence[Turn], sampling: Sampling, seed: int) -> Iterator[str]:
    """The assistant's next turn, piece by piece. Raises UserError for a prompt that is too long for the model."""
    tokenizer = lm.tokenizer
    prompt = prompt_tokens(lm.chat_template, tokenizer, turns).tolist()
    return pieces(tokenizer, stream(lm.config, lm.params, prompt, sampling, eos_id=tokenizer.eos_id, seed=seed))


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens as they come; a character that is spread over several comes whole, with the last of them."""
    ids, shown = [], ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids).rstrip(UNFINISHED)
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    if len(text := tokenizer.decode(ids)) > len(shown):
        yield text[len(shown) :]


def _say(parts: Iterator[str], person: bool) -> str:
    """Prints an answer as it comes and returns it; a person may stop it by Ctrl-C."""
    said = ""
    with contextlib.suppress(KeyboardInterrupt) if person else contextlib.nullcontext():
        for part in parts:
            part = part if said else part.lstrip()
            said += part
            print(part, end="", flush=True)
    print("\n" if person else "", flush=True)
    return said.strip()


def _typed() -> Iterator[str]:
    """Lines that a person types, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` a history and editing keys
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _piped() -> Iterator[str]:
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(f"the standard input is no UTF-8 text: {error}") from None
