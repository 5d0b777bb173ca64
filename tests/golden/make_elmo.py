"""What a plain loop in torch computes with random ELMos: float32, word by word, gate by gate, no dropout.

Written from the released code's description (the shared facts' section 2), not from lmjax's module. Among the peers:

    make_elmo.py              writes elmo.npz beside this file
    make_elmo.py IN OUT SEED  the same of a fresh model of another shape

A record holds `options` (options.json) and `weights/NAME` as released; `characters` [B, L, 50] of padded sentences, 0
where there is no word, and their `layers` [N + 1, B, L, 2D]; a training batch, `batch/FEATURE`, with a state to begin
with, `carry/cell` and `carry/output` [B, 2, N, ...], its `loss`, `gradients/NAME`, and the `after/...` states.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]

# Clips so tight that they bite: the tests would not see them otherwise.
GOLDEN = {
    "D": 6,
    "H": 10,
    "E": 3,
    "filters": [[1, 2], [2, 3], [3, 4]],
    "highways": 2,
    "clips": (0.5, 0.3),
    "V": 37,
    "scale": 0.5,
}
LIVE = {"D": 24, "H": 40, "E": 8, "filters": [[1, 8], [3, 16], [5, 8]], "highways": 1, "clips": (0.6, 0.2), "V": 300}
LIVE["scale"] = 0.2  # it is wider: sums of the same size


def make_options(shape: dict[str, Any]) -> dict[str, Any]:
    lstm = {"dim": shape["H"], "projection_dim": shape["D"], "n_layers": 2, "use_skip_connections": True}
    lstm |= {"cell_clip": shape["clips"][0], "proj_clip": shape["clips"][1]}
    cnn = {"activation": "relu", "embedding": {"dim": shape["E"]}, "filters": shape["filters"]}
    cnn |= {"max_characters_per_token": 50, "n_characters": 262, "n_highway": shape["highways"]}
    return {"lstm": lstm, "char_cnn": cnn, "n_tokens_vocab": shape["V"], "dropout": 0.0}


def make_weights(shape: dict[str, Any], rng: np.random.Generator) -> Arrays:
    D, H, E, V = (shape[key] for key in "DHEV")
    F = sum(count for _, count in shape["filters"])
    sizes: dict[str, tuple[int, ...]] = {"char_embed": (261, E), "CNN_proj/W_proj": (F, D), "CNN_proj/b_proj": (D,)}
    sizes |= {"softmax/W": (V, D), "softmax/b": (V,)}
    for i, (width, count) in enumerate(shape["filters"]):
        sizes |= {f"CNN/W_cnn_{i}": (1, width, E, count), f"CNN/b_cnn_{i}": (count,)}
    for i in range(shape["highways"]):
        for gate in ("carry", "transform"):
            sizes |= {f"CNN_high_{i}/W_{gate}": (F, F), f"CNN_high_{i}/b_{gate}": (F,)}
    for d in range(2):
        for i in range(2):
            cell = f"RNN_{d}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
            sizes |= {f"{cell}/W_0": (2 * D, 4 * H), f"{cell}/B": (4 * H,), f"{cell}/W_P_0": (H, D)}
    return {name: (shape["scale"] * rng.normal(size=size)).astype(np.float32) for name, size in sizes.items()}


def word_vector(characters: torch.Tensor, w: Tensors, options: dict[str, Any]) -> torch.Tensor:
    """One word, 50 ids, to a vector [D]: every window of every filter by itself."""
    cnn = options["char_cnn"]
    rows = [w["char_embed"][c - 1] if c else torch.zeros(cnn["embedding"]["dim"]) for c in characters.tolist()]
    embedded = torch.stack(rows)
    found = []
    for i, (width, _) in enumerate(cnn["filters"]):
        kernel = w[f"CNN/W_cnn_{i}"][0]
        windows = [(embedded[k : k + width, :, None] * kernel).sum((0, 1)) for k in range(50 - width + 1)]
        found.append(torch.relu(torch.stack(windows).max(0).values + w[f"CNN/b_cnn_{i}"]))
    x = torch.cat(found)
    for i in range(cnn["n_highway"]):
        gate = torch.sigmoid(x @ w[f"CNN_high_{i}/W_carry"] + w[f"CNN_high_{i}/b_carry"])
        x = gate * torch.relu(x @ w[f"CNN_high_{i}/W_transform"] + w[f"CNN_high_{i}/b_transform"]) + (1 - gate) * x
    return x @ w["CNN_proj/W_proj"] + w["CNN_proj/b_proj"]


def run_lstm(xs: list[torch.Tensor], w: Tensors, cell: str, lstm: dict[str, Any], state: Any) -> tuple[list, Any]:
    """One layer over a list of words [D]; the state is (cells [H], output [D])."""
    H, (c, h), outputs = lstm["dim"], state, []
    for x in xs:
        z = torch.cat([x, h]) @ w[f"{cell}/W_0"] + w[f"{cell}/B"]
        i, j, f, o = z[:H], z[H : 2 * H], z[2 * H : 3 * H], z[3 * H :]
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(j)
        c = torch.clamp(c, -lstm["cell_clip"], lstm["cell_clip"])
        h = (torch.sigmoid(o) * torch.tanh(c)) @ w[f"{cell}/W_P_0"]
        h = torch.clamp(h, -lstm["proj_clip"], lstm["proj_clip"])
        outputs.append(h)
    return outputs, (c, h)


def read(
    xs: list[torch.Tensor], direction: int, w: Tensors, options: dict[str, Any], states: list
) -> tuple[list, list]:
    """The words of one row in reading order: the vectors of each layer, and the states after them."""
    layers, ends = [xs], []
    for i in range(2):
        cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
        ys, end = run_lstm(layers[-1], w, cell, options["lstm"], states[i])
        layers.append([y + x for y, x in zip(ys, layers[-1], strict=True)] if i else ys)
        ends.append(end)
    return layers, ends


def embed(characters: np.ndarray, w: Tensors, options: dict[str, Any]) -> np.ndarray:
    """Every layer of padded sentences, 0 at padding."""
    D, H = options["lstm"]["projection_dim"], options["lstm"]["dim"]
    found = np.zeros((3, *characters.shape[:2], 2 * D), np.float32)
    for row, words in enumerate(characters):
        real = words[words[:, 0] > 0]
        xs = [word_vector(torch.tensor(word), w, options) for word in real.astype(np.int64)]
        for direction in range(2):
            order = slice(None, None, -1 if direction else 1)
            layers, _ = read(xs[order], direction, w, options, [(torch.zeros(H), torch.zeros(D))] * 2)
            for number, layer in enumerate(layers):
                side = slice(direction * D, (direction + 1) * D)
                found[number, row, : len(real), side] = torch.stack(layer[order]).detach().numpy()
    return found


def train(batch: Arrays, carry: Arrays, w: Tensors, options: dict[str, Any]) -> tuple[torch.Tensor, Arrays]:
    """The mean of both directions' means, and the states after the batch."""
    losses, after = [], {name: np.zeros_like(value) for name, value in carry.items()}
    for row in range(len(batch["targets"])):
        for direction, prefix in enumerate(("", "backward_")):
            words = batch[f"{prefix}tokens"][row].astype(np.int64)
            xs = [word_vector(torch.tensor(word), w, options) for word in words]
            begin = [tuple(torch.tensor(carry[k][row, direction, i]) for k in ("cell", "output")) for i in range(2)]
            layers, ends = read(xs, direction, w, options, begin)
            for i, (c, h) in enumerate(ends):
                after["cell"][row, direction, i], after["output"][row, direction, i] = c.detach(), h.detach()
            logits = torch.stack(layers[-1]) @ w["softmax/W"].T + w["softmax/b"]
            targets = torch.tensor(batch[f"{prefix}targets"][row].astype(np.int64))
            losses.append(torch.nn.functional.cross_entropy(logits, targets))
    return torch.stack(losses).mean(), after


def spelled(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random words of 1 to 12 bytes, between the marks of a word."""
    found = np.full((*shape, 50), 261, np.uint16)
    for word in found.reshape(-1, 50):
        size = rng.integers(1, 13)
        word[0], word[1 : size + 1], word[size + 1] = 259, rng.integers(1, 257, size), 260
    return found


def record(shape: dict[str, Any], seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    options, weights = make_options(shape), make_weights(shape, rng)
    characters = spelled(rng, (3, 7))
    for row, length in enumerate((7, 4, 1)):
        characters[row, length:] = 0
    batch = {"tokens": spelled(rng, (2, 5)), "backward_tokens": spelled(rng, (2, 5))}
    batch |= {f"{p}targets": rng.integers(0, shape["V"], (2, 5)).astype(np.int32) for p in ("", "backward_")}
    carry = {"cell": rng.uniform(-1, 1, (2, 2, 2, shape["H"])), "output": rng.uniform(-1, 1, (2, 2, 2, shape["D"]))}
    carry = {name: (0.3 * value).astype(np.float32) for name, value in carry.items()}
    w = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    loss, after = train(batch, carry, w, options)
    loss.backward()
    gradients = {name: np.zeros(0) if t.grad is None else t.grad.numpy() for name, t in w.items()}
    parts = {"weights": weights, "batch": batch, "carry": carry, "after": after, "gradients": gradients}
    flat = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    whole = {"options": np.array(json.dumps(options)), "characters": characters, "loss": loss.detach().numpy()}
    return flat | whole | {"layers": embed(characters, w, options)}


if __name__ == "__main__":
    if len(sys.argv) == 1:
        np.savez_compressed(Path(__file__).parent / "elmo.npz", allow_pickle=False, **record(GOLDEN, 0))
    else:
        np.savez(sys.argv[2], allow_pickle=False, **record(LIVE, int(sys.argv[3])))
