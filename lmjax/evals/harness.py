"""A causal model for EleutherAI's lm-evaluation-harness (pip install lmjax[harness]), which brings tasks of its own:

lm_eval.simple_evaluate(HarnessModel(lmjax.load("runs/gpt2")), tasks=["lambada_openai"])
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

from lmjax.errors import UserError
from lmjax.evals.evaluate import continued
from lmjax.evals.scoring import Request, begun, score, split, windows
from lmjax.generate import Sampling
from lmjax.interop import LanguageModel

MAX_NEW_TOKENS = 256  # where a task says nothing


class HarnessModel(LM):
    """`requests` are the harness's instances, of which only `args` is read. Raises UserError for a model that is not
    causal."""

    def __init__(self, lm: LanguageModel, batch_size: int = 16):
        super().__init__()
        if "clm" not in lm.heads:
            raise UserError(f"{type(lm.config).__name__}: the harness needs a causal model")
        self.lm, self.batch_size = lm, batch_size

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of (context, continuation): the sum of log-probabilities, and whether greedy decoding would write it."""
        texts = [request.args for request in requests]
        found = score(self.lm, [begun(self.lm, r) for r in split(self.lm.tokenizer, texts)], self.batch_size, "score")
        return [(float(one.log_probabilities.sum()), one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of (text,): the sum over all its tokens, in windows that follow each other."""
        length, sums = self.lm.longest, []
        for tokens in self.lm.tokenizer.encode_batch([request.args[0] for request in requests]):
            (first,) = begun(self.lm, Request((), tokens)).context
            parts = score(self.lm, list(windows(tokens, first, length, length)), self.batch_size)
            sums.append(float(sum(part.log_probabilities.sum() for part in parts)))
        return sums

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Of (context, {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}): new text up to the
        first of the stop strings. Of a prompt that is too long the beginning is cut off."""
        texts = [""] * len(requests)
        places: dict[Sampling, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(_sampling(request.args[1]), []).append(place)
        for sampling, group in places.items():
            room = self.lm.longest - sampling.max_new_tokens
            if room < 1:
                raise UserError(f"{sampling.max_new_tokens} new tokens leave no room for a prompt")
            prompts = self.lm.tokenizer.encode_batch([requests[place].args[0] for place in group])
            prompts = [[*begun(self.lm, Request(ids, ())).context][-room:] for ids in prompts]
            for place, text in zip(
                group, continued(self.lm, prompts, sampling, batch_size=self.batch_size), strict=True
            ):
                texts[place] = _until(text, requests[place].args[1].get("until") or [])
        return texts


def _sampling(options: dict[str, Any]) -> Sampling:
    new = int(options.get("max_gen_toks", MAX_NEW_TOKENS))
    if not options.get("do_sample"):
        return Sampling(new, temperature=0.0)
    shape = {name: options[name] for name in ("temperature", "top_k", "top_p") if name in options}
    return Sampling(new, **shape)


def _until(text: str, stops: str | Sequence[str]) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if stop else text
    return text
