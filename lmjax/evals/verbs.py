"""The verbs of `python -m lmjax` that evaluate models; see `lmjax.commands`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from lmjax.errors import UserError

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


def evaluate(
    model: Model,
    tasks: tuple[str, ...] = (),
    shots: int = 0,
    limit: int = 0,
    seed: int = 0,
    rule: Literal["", "sum", "per_token", "per_character", "per_byte", "unconditional"] = "",
    beams: int = 0,
    stride: int = 0,
    batch_size: int = 16,
    data: str = "",
    out: str = "",
) -> None:
    """Zero- and few-shot tasks: --tasks lambada winogrande ...; without --tasks, list them.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        tasks: Names of tasks.
        shots: Demonstrations before each question, as far as they fit.
        limit: Take the first so many rows of each task (0 = all).
        seed: Of the demonstrations that are drawn, and of sampled text.
        rule: How options are valued, instead of each task's own rule.
        beams: Search for generated answers with so many beams (0 = greedy; models that translate: 4).
        stride: Tokens of a long text that a window scores (0 = half of the model's positions).
        batch_size: Rows at once.
        data: The folder of the tasks' files; by default $LMJAX_DATA, or ../shared/data without it.
        out: Write the results to this JSON file too; it is complete after each task.
    """
    from lmjax.data.files import data_folder
    from lmjax.evals import evaluate as evals
    from lmjax.evals.fewshot import TASKS

    if not tasks:
        raise UserError(f"no task; --tasks takes some of {', '.join(TASKS)}")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out {out}: no directory {Path(out).parent}")
    if out and Path(out).is_dir():
        raise UserError(f"--out {out} is a directory; name a file")
    from lmjax.interop import load

    protocol = evals.Protocol(
        shots=shots,
        limit=limit,
        seed=seed,
        rule=rule or None,
        beams=beams,
        stride=stride,
        batch_size=batch_size,
        progress=True,
    )
    lm, folder = load(model), data or data_folder()
    for name, metrics in evals.run(lm, model, tasks, folder, protocol, out):
        figures = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items())
        print(f"{name:18} {figures}")


def probe(
    model: Model,
    tasks: tuple[str, ...] = (),
    limit: int = 10_000,
    steps: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    data: str = "",
    *,
    out: str,
) -> None:
    """Show what each layer knows: linear probes by task and layer, a table and a picture.

    Args:
        model: A run, RUN/best, a checkpoint, a Hugging Face directory or a released ELMo.
        tasks: Some of pos, chunks, entities, dependency, coreference, sentiment, acceptability; by default all.
        limit: Learn from so many labelled words, pairs or sentences of each task at most.
        steps: Of each probe's training.
        seed: Of what is drawn.
        batch_size: Sentences that the model reads at once.
        data: The folder of the tasks' files; by default $LMJAX_DATA, or ../shared/data without it.
        out: The directory for results.json, layers.png and the vectors; the same command again starts from these.
    """
    from lmjax.data.files import data_folder
    from lmjax.evals import probe as probing
    from lmjax.evals.probe_tasks import PROBES
    from lmjax.interop import load

    cfg = probing.ProbeConfig(limit=limit, steps=steps, seed=seed, batch_size=batch_size, progress=True)
    lm, folder = load(model), data or data_folder()
    print(probing.table(dict(probing.probe(lm, model, tasks or tuple(PROBES), folder, out, cfg))))
    print(f"{out}: results.json, layers.png")


def attention(model: Model, text: str = "", source: str = "", target: str = "", *, out: str) -> None:
    """Show where a model looks in a text: a page to explore, and pictures.

    Args:
        model: A run, RUN/best, a checkpoint or a Hugging Face directory.
        text: A text.
        source: Of a model that translates, the text that its encoder reads.
        target: Of such a model, the translation; its own where none is given.
        out: The directory to make, with attention.html and a .png for each kind of attention.
    """
    from lmjax.evals.attention import attention_views, write_attention
    from lmjax.interop import load

    views = attention_views(load(model), text, source, target)
    names = write_attention(views, text or source, out)
    print(f"{out}: {', '.join(names)}")


def compare(
    model: Model,
    record: str = "",
) -> None:
    """Put the figures of a finished run beside its paper's.

    Args:
        model: A fine-tuning run, a study's directory, or the file that evaluate --out wrote.
        record: Keep them for the README's table, which `make results` writes, the model under this name.
    """
    from lmjax.evals import results

    found = results.measure(model)
    print(results.comparison(found))
    if record:
        results.record(found, record)
