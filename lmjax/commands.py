"""The verbs of `python -m lmjax`. Each function is one command; its signature and docstring are its help.

Heavy imports stand inside the functions, so that help and complaints come at once.
"""

import functools
import gzip
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, ParamSpec

import tyro
from etils import epath

from lmjax.chatgpt.verbs import chatgpt
from lmjax.collect.verbs import rank, sample
from lmjax.errors import UserError, did_you_mean
from lmjax.evals.verbs import Model, attention, compare, evaluate, probe

P = ParamSpec("P")


def exit_codes(function: Callable[P, None]) -> Callable[P, None]:
    """A command: a UserError, or a path that may not be used, is one line on stderr and exit code 2, an interrupt exit
    code 130, a warning one line."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        warnings.formatwarning = lambda message, *_, **__: f"lmjax: {message}\n"
        try:
            function(*args, **kwargs)
        except UserError as error:
            print(f"lmjax: {error}", file=sys.stderr)
            sys.exit(2)
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            print(f"lmjax: {error.filename}: {error.strerror}; choose another path", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:  # `| head`
            sys.stderr.close()
            sys.exit(141)

    return command


def run(arguments: list[str]) -> None:
    """Runs `VERB ...`. Raises UserError for a verb that is not there."""
    verb, *rest = arguments or ["--help"]
    prog = f"python -m lmjax {verb}"
    if verb in ("-h", "--help"):
        lines = [f"  {name:10} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items()]
        print("\n".join(["usage: python -m lmjax VERB ...; VERB --help says more", "", *lines]))
    elif verb not in VERBS:
        raise UserError(f"unknown verb '{verb}'{did_you_mean(verb, VERBS)}")
    elif verb == "prepare":
        prepare(rest, prog)
    else:
        tyro.cli(VERBS[verb], args=rest, prog=prog)


def prepare(arguments: list[str], prog: str) -> None:
    """Make the data store that a config names: CONFIG.py [--field value ...]"""
    from lmjax.config import load_and_override
    from lmjax.run import RunConfig, prepare_data

    prepare_data(load_and_override(arguments, prog, RunConfig))


def fill_mask(model: Model, texts: Annotated[tuple[str, ...], tyro.conf.Positional], top: int = 5) -> None:
    """Fill in the masks of a text: RUN "The [MASK] barked."

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        texts: Texts with [MASK] in them.
        top: How many words to show for each mask.
    """
    from lmjax.evals.masks import fill_masks
    from lmjax.interop import load

    if not texts:
        raise UserError('no text; write it behind the model, "The [MASK] barked."')
    if top < 1:
        raise UserError(f"--top {top} must be at least 1")
    lm = load(model)
    for text in texts:
        masks = fill_masks(lm, text, top)
        print(text)
        for filled in masks:
            print("  " + "  ".join(f"{token} {p:.3f}" for token, p in filled))


def embed(
    model: Model,
    text: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    file: str = "",
    layers: tuple[int, ...] = (-1,),
    pool: Literal["none", "cls", "mean", "mix"] = "none",
    batch_size: int = 32,
    *,
    out: str,
) -> None:
    """Write the vectors of words or texts to OUT.npy or OUT.h5.

    Args:
        model: A run, RUN/best, a checkpoint, a Hugging Face directory or a released ELMo (options.json, weights.hdf5).
        text: A text; may be given several times.
        file: A file with a text on each line; blank lines are passed over.
        layers: 0 is the embedding layer, 1 to N the blocks, -1 the last; several are laid side by side.
        pool: none: a vector a word. mix: a vector a word, the layers averaged. cls, mean: a vector a text.
        batch_size: Texts at once.
        out: File to write, .npy (with words in a .tsv beside it) or .h5.
    """
    if Path(out).suffix not in (".npy", ".h5"):
        raise UserError(f"--out {out}: vectors are written to .npy or .h5")
    texts = [*text, *(line for line in (_lines(file) if file else []) if line.strip())]
    if not texts:
        raise UserError("no text: give --text or --file")
    from lmjax.evals import embeddings
    from lmjax.interop import load

    found = embeddings.embed(load(model), texts, layers, pool, batch_size, progress=bool(file))
    embeddings.save_embeddings(found, texts, out)
    rows, width = found.vectors.shape
    print(f"{out}: {rows} vectors of {width}, float32, from {len(texts)} texts")


def generate(
    model: Model,
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> None:
    """Continue prompts with a causal model.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        prompt: A prompt; may be given several times, and all are continued at once. None: from the beginning.
        max_new_tokens: Where to stop, unless the text ends before.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_k: Draw from the k likeliest tokens only (0 = all).
        top_p: Draw from the fewest likeliest tokens that have this probability together.
        seed: Of the draws.
    """
    from lmjax.generate import Sampling
    from lmjax.interop import load

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p)
    prompts = prompt or ("",)
    for start, new in zip(prompts, load(model).generate(prompts, sampling, seed), strict=True):
        print(start + new, end="\n\n" if len(prompts) > 1 else "\n")


def chat(
    model: Model,
    system: str = "",
    max_new_tokens: int = 256,
    temperature: float = 0.7,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    template: str = "",
) -> None:
    """Talk with a model that was tuned to answer; piped lines are answered on the standard output.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        system: What the model is told before the conversation.
        max_new_tokens: Where an answer stops, unless it ends before; at most half of the model's context.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_k: Draw from the k likeliest tokens only (0 = all).
        top_p: Draw from the fewest likeliest tokens that have this probability together.
        seed: Of the first answer; each further one has the next.
        template: The chat template by name, instead of the model's own.
    """
    from lmjax.chat import chat
    from lmjax.data.chat_template import named_template
    from lmjax.generate import Sampling
    from lmjax.interop import load

    sampling, lm = Sampling(max_new_tokens, temperature, top_k, top_p), load(model)
    if template:
        lm = replace(lm, vocabulary=lm.tokenizer.with_chat_template(named_template(template)))
    chat(lm, sampling, system, seed)


def translate(
    model: Model,
    input: str = "-",
    reference: str = "",
    out: str = "",
    average: int = 1,
    beams: int = 4,
    length_penalty: Literal["gnmt", "power"] = "gnmt",
    alpha: float = 0.6,
    early_stopping: Literal["first_finished", "heuristic", "never"] = "heuristic",
    batch_size: int = 32,
) -> None:
    """Translate lines of text; with a reference, also score the translations.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        input: A file with a text on each line, plain or .gz; - is the standard input.
        reference: A file of as many reference translations: prints sacreBLEU's figure with its signature.
        out: Write the translations to this file instead of the screen.
        average: Take the mean of so many of a run's last checkpoints.
        beams: Translations that are pursued at once; 1 is greedy.
        length_penalty: gnmt: log p / ((5 + n) / 6)^alpha. power: log p / n^alpha.
        alpha: The power of the length penalty.
        early_stopping: When a text with enough finished translations is done, see lmjax.beam.Beam.
        batch_size: Texts at once.
    """
    if out and not Path(out).parent.is_dir():
        raise UserError(f"--out {out}: no directory {Path(out).parent}")
    if out and Path(out).is_dir():
        raise UserError(f"--out {out} is a directory; name a file")
    texts = [line.rstrip("\n") for line in sys.stdin] if input == "-" else _lines(input)
    references = _lines(reference) if reference else texts
    if not texts or len(references) != len(texts):
        raise UserError(f"{len(texts)} lines to translate and {len(references)} references; give one for each")
    from lmjax.beam import Beam
    from lmjax.interop import load

    beam = Beam(beams, length_penalty, alpha, early_stopping)
    found = load(model, average).translate(texts, beam, batch_size)
    if out:
        Path(out).write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    else:
        print("\n".join(found))
    if reference:
        print(_bleu(found, references))


def _bleu(found: list[str], references: list[str]) -> str:
    """sacreBLEU's figure and signature (Post 2018)."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError("sacrebleu is not installed, and --reference needs it: pip install lmjax[eval]") from None
    bleu = BLEU()
    score = bleu.corpus_score(found, [references])
    return f"{score}\n{bleu.get_signature()}"


def convert(model: Model, out: Annotated[str, tyro.conf.Positional]) -> None:
    """Write a model as a Hugging Face directory; a reward run as a classifier with one output.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory (of an older form).
        out: The directory to make.
    """
    from lmjax.interop import load
    from lmjax.rlhf.scores import is_reward_model, load_reward_model

    if is_reward_model(model):
        load_reward_model(model).save_hf(out)
        print(f"{out}: the best state, with its reward as the one output of a sequence classifier")
        return
    lm = load(model)
    lm.save_hf(out)
    kind, heads = type(lm.config).__name__.removesuffix("Config"), [*lm.heads, *([lm.layer.name] if lm.layer else [])]
    print(f"{out}: {kind} with {lm.num_params:,} parameters, heads {', '.join(heads) or 'none'}")


def predict(run: Model, file: Annotated[str, tyro.conf.Positional], out: Annotated[str, tyro.conf.Positional]) -> None:
    """What a fine-tuned model says of a file in the form of its task's test file.

    Args:
        run: A finished fine-tuning run; its best state answers.
        file: The rows.
        out: The directory to make, for the task's prediction files.
    """
    from lmjax.data.store import built_aside
    from lmjax.predictions import predict_file

    if Path(out).exists():
        raise UserError(f"{out} exists already; choose another directory, or delete it")
    files = predict_file(run, file)
    with built_aside(epath.Path(out)) as building:
        for name, text in files.items():
            (building / name).write_text(text)
    print(f"{out}: {', '.join(files)}")


def verify(model: Model) -> None:
    """Check a run's checkpoints, and print step, parameter count and one sha256.

    Args:
        model: A run or a checkpoint.
    """
    from lmjax import verify

    print(verify.verify(model))


def _lines(file: str) -> list[str]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.endswith(".gz") else open(file, encoding="utf-8") as lines:
            return [line.rstrip("\n") for line in lines]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no readable UTF-8 text: {error}") from None


VERBS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "fill-mask": fill_mask,
    "embed": embed,
    "generate": generate,
    "chat": chat,
    "translate": translate,
    "sample": sample,
    "rank": rank,
    "chatgpt": chatgpt,
    "evaluate": evaluate,
    "probe": probe,
    "attention": attention,
    "predict": predict,
    "compare": compare,
    "convert": convert,
    "verify": verify,
}
