"""The verbs of `python -m lmjax` that collect people's choices; see `lmjax.commands`."""

from typing import Annotated

import tyro

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Rankings = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RANKINGS")]


def sample(
    model: Model,
    prompts: str,
    out: str,
    n: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
) -> None:
    """Write several answers to each prompt, for people to rank.

    Args:
        model: A run that was tuned to answer, RUN/best, a checkpoint or a Hugging Face directory.
        prompts: A .txt file with a prompt a line, or JSON (lines) of prompts, rankings or conversations.
        out: The file of rankings to make, JSON lines, their ranks null.
        n: Answers to each prompt.
        max_new_tokens: Where an answer is cut off, unless it ends before.
        temperature: Divides the logits.
        top_k: Draw from the k likeliest tokens only (0 = all).
        top_p: Draw from the fewest likeliest tokens that have this probability together.
        seed: Of the draws.
        batch_size: Answers at once.
    """
    from lmjax.collect.sample import sample_to
    from lmjax.generate import Sampling
    from lmjax.interop import load

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p)
    print(sample_to(load(model), prompts, n, sampling, out, seed, batch_size))


def rank(file: Rankings, html: str = "") -> None:
    """Rank the answers of a file by hand: here in the terminal, or on a page.

    Args:
        file: JSON lines that sample wrote; what has ranks already is passed over.
        html: Write a self-contained page for the browser instead; it gives the filled file back as a download.
    """
    from lmjax.collect.rank import rank, write_page

    if html:
        write_page(file, html)
        print(f"{html}: open it in a browser")
    else:
        rank(file)
