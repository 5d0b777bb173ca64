"""Several answers of a model to each of many prompts, as rankings that somebody is to fill."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from lmjax.data.chat_template import Turn, prompt_tokens
from lmjax.data.preferences import Ranking, as_row, read_prompts
from lmjax.errors import UserError
from lmjax.generate import Sampling, generate
from lmjax.interop import LanguageModel
from lmjax.models.architecture import check_use
from lmjax.train.files import write_atomically

Prompt = tuple[str, tuple[Turn, ...]]  # where it stands, and what was said


def sample_to(
    lm: LanguageModel, prompts: str, answers: int, sampling: Sampling, out: str, seed: int = 0, batch_size: int = 32
) -> str:
    """Writes `out`, a ranking with ranks null for each prompt of the file `prompts`, all or nothing; says what it did.

    Raises:
      UserError: `out` is there already; fewer than two answers; a model without a chat template; a prompt too long.
    """
    target = epath.Path(out)
    if target.exists():
        raise UserError(f"{out} exists already; choose another --out, or delete it")
    if not target.parent.is_dir():
        raise UserError(f"--out {out}: no directory {target.parent}")
    found = list(sample(lm, read_prompts(prompts), answers, sampling, seed, batch_size))
    lines = (json.dumps(as_row(ranking), ensure_ascii=False) for ranking, _ in found)
    write_atomically(target, "".join(f"{line}\n" for line in lines))
    cut = sum(cut for _, cut in found)
    total = answers * len(found)
    return f"{out}: {total} answers to {len(found)} prompts, {cut} cut off at {sampling.max_new_tokens} tokens"


def sample(
    lm: LanguageModel, prompts: Sequence[Prompt], answers: int, sampling: Sampling, seed: int, batch_size: int
) -> Iterator[tuple[Ranking, int]]:
    """Each prompt with its answers, and how many of them were cut off.

    Answers depend on the seed, the prompts' places in the file and `batch_size`.
    """
    check_use(lm.config, lm.heads, "generate")
    template, tokenizer = lm.chat_template, lm.tokenizer
    if answers < 2 or batch_size < 1:
        raise UserError(
            f"--n {answers}, --batch-size {batch_size}: at least two answers make a choice, in batches of 1"
        )
    if sampling.temperature == 0 or sampling.top_k == 1:
        raise UserError("at temperature 0, and of the one likeliest token, all answers to a prompt are the same")
    if seed < 0:
        raise UserError(f"--seed {seed} is negative")
    if not prompts:
        raise UserError("there is no prompt")
    ids = [prompt_tokens(template, tokenizer, turns).tolist() for _, turns in prompts]
    for (where, _), prompt in zip(prompts, ids, strict=True):
        if len(prompt) + sampling.max_new_tokens > lm.longest:
            needed = f"a prompt of {len(prompt)} tokens and {sampling.max_new_tokens} new ones"
            raise UserError(
                f"{where}: {needed} exceed the model's {lm.longest} positions; lower --max-new-tokens or cut it"
            )
    rows = [prompt for prompt in ids for _ in range(answers)]
    new: list[list[int]] = []
    for first in tqdm(range(0, len(rows), batch_size), "answers", unit=" batch", disable=None, delay=1):
        batch = rows[first : first + batch_size]
        batch += batch[-1:] * (batch_size - len(batch))  # a program serves one number of rows
        own_seed = int(np.random.SeedSequence((seed, first)).generate_state(1)[0] >> 1)
        found = generate(lm.config, lm.params, batch, sampling, eos_id=tokenizer.eos_id, seed=own_seed)
        new += found[: len(rows) - first]
    for number, (_, turns) in enumerate(prompts):
        own = new[number * answers : (number + 1) * answers]
        texts = tuple(tokenizer.decode(tokens).strip() for tokens in own)
        yield Ranking(turns, texts, None), sum(len(tokens) == sampling.max_new_tokens for tokens in own)
