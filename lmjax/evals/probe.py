"""What each layer knows: linear probes on the frozen vectors of every layer alone, and of their learned weighted sum.

The expected layer is the centre of gravity of the sum's weights (Tenney et al. 2019a, section 3.1).
Letters: R rows, S spans a row, N layers with the embeddings' first, D width, P probes (one a layer, then the sum's), B
rows of a batch, F features, C classes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tqdm import tqdm

from lmjax.config import to_json
from lmjax.data.examples import store_name
from lmjax.errors import UserError
from lmjax.evals.embeddings import LENGTH_MULTIPLE, layer_states
from lmjax.evals.probe_tasks import Sentence, check_tasks, read_probe
from lmjax.interop import LanguageModel
from lmjax.train.files import write_atomically
from lmjax.types import Array

Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ProbeConfig:
    """`limit`: targets to learn from, at most; a quarter as many are held out. `steps` of `rows` drawn targets, at a
    rate that falls from `peak_lr` to 0 in a line."""

    limit: int = 10_000
    steps: int = 1000
    rows: int = 256
    peak_lr: float = 3e-3
    seed: int = 0
    batch_size: int = 32
    progress: bool = False


def probe(
    lm: LanguageModel, name: str, tasks: Sequence[str], folder: str, out: str, cfg: ProbeConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each task with its figures: accuracy of each layer and of the sum on held-out targets, the majority label's, the
    sum's weights and the expected layer. OUT/results.json and OUT/layers.png are complete after each task;
    OUT/vectors/ keeps what the model said, for the next time.

    Raises:
      UserError: an unknown task, missing or bad files, a model that translates.
    """
    if lm.translates:
        raise UserError("probe: this model translates; layers are probed of models that read one text")
    if min(cfg.limit, cfg.steps, cfg.batch_size) < 1:
        raise UserError(f"probe: limit {cfg.limit}, steps {cfg.steps} and batch_size {cfg.batch_size} must be positive")
    check_tasks(tasks, folder)
    directory, model, found = epath.Path(out).expanduser(), _digest(lm), {}
    (directory / "vectors").mkdir(parents=True, exist_ok=True)
    for task in tasks:
        splits = read_probe(task, folder, cfg.limit, cfg.seed)
        sentences = splits["train"] + splits["heldout"]
        file = directory / "vectors" / f"{store_name(task, model, json.dumps(sentences))}.npy"
        if not file.exists():
            _save(file, span_vectors(lm, sentences, cfg.batch_size, task if cfg.progress else ""))
        found[task] = _figures(np.load(str(file), allow_pickle=False), splits, cfg)
        result = {"model": name, "protocol": to_json(cfg), "tasks": found}
        write_atomically(directory / "results.json", json.dumps(result, indent=1))
        _draw(found, directory / "layers.png")
        yield task, found[task]


def span_vectors(lm: LanguageModel, sentences: Sequence[Sentence], batch_size: int, shown: str = "") -> np.ndarray:
    """float32 [R, S, N, D], a row for each target in order: the mean over a span's tokens. Not a number where the
    model's positions do not reach the span."""
    N, first = lm.config.num_hidden_layers + 1, np.cumsum([0, *(len(s.targets) for s in sentences)])
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i].words))  # little padding
    vectors = None
    for start in tqdm(range(0, len(order), batch_size), shown, unit=" batches", disable=not shown):
        places = order[start : start + batch_size]
        filled = places + places[:1] * (batch_size - len(places))  # one shape
        features, bounds = lm.encode_words([sentences[i].words for i in filled], LENGTH_MULTIPLE)
        states_NBLD = layer_states(lm, features, range(N))
        if vectors is None:
            spans = max(len(target.spans) for s in sentences for target in s.targets)
            vectors = np.full((first[-1], spans, N, states_NBLD.shape[-1]), np.nan, np.float32)
        for row, place in enumerate(places):
            for number, target in enumerate(sentences[place].targets):
                for i, (begin, end) in enumerate(target.spans):
                    if end <= len(bounds[row]):
                        tokens = slice(bounds[row][begin, 0], bounds[row][end - 1, 1])
                        vectors[first[place] + number, i] = states_NBLD[:, row, tokens].mean(1)
    assert vectors is not None
    return vectors


def _figures(vectors: np.ndarray, splits: dict[str, list[Sentence]], cfg: ProbeConfig) -> dict[str, Any]:
    names = {split: [t.label for s in sentences for t in s.targets] for split, sentences in splits.items()}
    known = sorted(set(names["train"]))
    ids = {label: number for number, label in enumerate(known)}
    labels = np.array([ids.get(label, -1) for label in names["train"] + names["heldout"]], np.int32)
    reached = ~np.isnan(vectors).any((1, 2, 3))
    train = reached & (np.arange(len(labels)) < len(names["train"]))
    heldout = reached & ~(np.arange(len(labels)) < len(names["train"]))
    if not train.any() or not heldout.any():
        raise UserError("probe: the model's positions reach no target; its rows are too short")
    key = jax.random.key(cfg.seed)
    hits, weights = _learn(vectors[train], labels[train], vectors[heldout], labels[heldout], key, len(known), cfg)
    weights, accuracy = np.asarray(weights, np.float64), [float(x) for x in hits]
    return {
        "train": int(train.sum()),
        "heldout": int(heldout.sum()),
        "out_of_reach": int((~reached).sum()),
        "labels": len(known),
        "majority": float(np.mean(labels[heldout] == np.bincount(labels[train]).argmax())),
        "accuracy": accuracy[:-1],
        "mix": accuracy[-1],
        "weights": weights.tolist(),
        "best_layer": int(np.argmax(accuracy[:-1])),
        "expected_layer": float(weights @ np.arange(len(weights))),
    }


@partial(jax.jit, static_argnums=(5, 6))
def _learn(
    x_RSND: Array, labels_R: Array, heldout_RSND: Array, answers_R: Array, key: Array, classes: int, cfg: ProbeConfig
) -> tuple[Array, Array]:
    """Accuracies [P] on the held-out rows, and the sum's weights [N]. Vectors of a layer are shifted by their mean and
    scaled by one number, so that the weights tell of what is in a layer, and not of its size."""
    S, N, D = x_RSND.shape[1:]
    mean_SND = jnp.mean(x_RSND, 0, keepdims=True)
    scale_N1 = jax.lax.rsqrt(jnp.mean(jnp.square(x_RSND - mean_SND), (0, 1, 3), keepdims=True) + 1e-6)

    def logits(params: Any, x_BSND: Array) -> Array:
        h_BSND = (x_BSND - mean_SND) * scale_N1
        mixed = params["gamma"] * jnp.einsum("n,bsnd->bsd", jax.nn.softmax(params["mix"]), h_BSND)
        h_BSPD = jnp.concatenate([h_BSND, mixed[:, :, None]], 2)
        a = h_BSPD[:, 0]
        f_BPF = a if S == 1 else jnp.concatenate([a, h_BSPD[:, 1], a * h_BSPD[:, 1]], -1)
        return jnp.einsum("bpf,pfc->bpc", f_BPF, params["kernel"]) + params["bias"][None]

    def loss(params: Any, rows: Array) -> Array:
        log_p = jax.nn.log_softmax(logits(params, x_RSND[rows]))
        return -jnp.sum(jnp.take_along_axis(log_p, labels_R[rows][:, None, None], 2)) / cfg.rows  # probes do not meet

    def step(state: Any, number: Array) -> tuple[Any, None]:
        params, slots = state
        rows = jax.random.randint(jax.random.fold_in(key, number), (cfg.rows,), 0, len(x_RSND))
        updates, slots = tx.update(jax.grad(loss)(params, rows), slots, params)
        return (optax.apply_updates(params, updates), slots), None

    tx = optax.adam(optax.linear_schedule(cfg.peak_lr, 0.0, cfg.steps))
    F = D if S == 1 else 3 * D
    shapes = {"mix": (N,), "kernel": (N + 1, F, classes), "bias": (N + 1, classes)}
    fresh: Any = {name: jnp.zeros(shape) for name, shape in shapes.items()} | {"gamma": jnp.ones(())}
    (params, _), _ = jax.lax.scan(step, (fresh, tx.init(fresh)), jnp.arange(cfg.steps))
    said = jax.lax.map(lambda x: jnp.argmax(logits(params, x[None])[0], -1), heldout_RSND, batch_size=cfg.rows)
    return jnp.mean(said == answers_R[:, None], 0), jax.nn.softmax(params["mix"])


def table(found: Found) -> str:
    """Accuracy of each layer and of the sum, in per cent, beside the majority label's and the expected layer."""
    layers = len(next(iter(found.values()))["accuracy"])
    width = max(map(len, found))
    numbers = "".join(f"{i:>6}" for i in range(layers))
    lines = [f"{'':<{width}}  majority{numbers}   mix  expected layer"]
    for name, one in found.items():
        cells = "".join(f"{100 * x:6.1f}" for x in [*one["accuracy"], one["mix"]])
        lines.append(f"{name:<{width}}  {100 * one['majority']:8.1f}{cells}  {one['expected_layer']:.2f}")
    return "\n".join(lines)


def _draw(found: Found, file: epath.Path) -> None:
    """Tasks by layers, the majority label before them and the sum behind. Darker = more of what the majority label
    leaves open; a frame round the best layer, if it gains on that label, a mark at the expected one."""
    layers = len(next(iter(found.values()))["accuracy"])
    figure = Figure(figsize=(2.2 + 0.68 * (layers + 2), 1.6 + 0.45 * len(found)), layout="constrained")
    ax = figure.subplots()
    cells = np.array([[one["majority"], *one["accuracy"], one["mix"]] for one in found.values()])
    gains = np.clip(cells - cells[:, :1], 0, None)
    shares = gains / np.maximum(1 - cells[:, :1], 1e-9)
    edges = (-1.5, layers + 0.5, len(found) - 0.5, -0.5)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=edges)
    best = cells[:, 1:-1].argmax(1)
    for row, column in np.ndindex(*cells.shape):
        is_best = column == best[row] + 1 and gains[row, column]
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{100 * cells[row, column]:.1f}"
        weight = "bold" if is_best else "normal"
        ax.text(column - 1, row, text, ha="center", va="center", fontsize=8, color=colour, weight=weight)
        if is_best:
            ax.add_patch(Rectangle((column - 1.42, row - 0.42), 0.84, 0.84, fill=False, color="black", linewidth=1.4))
    expected = [one["expected_layer"] for one in found.values()]
    ax.plot(expected, np.arange(len(found)) + 0.33, "^", color="tab:orange", markeredgecolor="white", markersize=7)
    for line in (-0.5, layers - 0.5):
        ax.axvline(line, color="white", linewidth=5)
    for line in range(1, len(found)):
        ax.axhline(line - 0.5, color="white", linewidth=3)
    ax.set_xticks(range(-1, layers + 1), ["majority", "words", *map(str, range(1, layers)), "sum"])
    ax.set_yticks(range(len(found)), list(found))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("layer; framed: the best; \u25b2: the expected one, where the weights of the sum lie", fontsize=8)
    figure.suptitle(
        "what a linear probe tells from each layer, %; darker: more of what the majority label leaves open", fontsize=9
    )
    part = file.with_name(f"{file.stem}.part.png")
    figure.savefig(str(part), dpi=120)
    part.replace(file)


def _digest(lm: LanguageModel) -> str:
    """Of all that a vector depends on but the text."""
    digest = hashlib.sha256(json.dumps(to_json(lm.config)).encode())
    digest.update(lm.vocabulary.fingerprint.encode() if lm.vocabulary else b"")
    for leaf in jax.tree.leaves(lm.params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _save(file: epath.Path, vectors: np.ndarray) -> None:
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    part.replace(file)
