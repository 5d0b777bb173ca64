"""torch's side of `translation.py epoch`: FOLDER holds the model and batches; prints losses and the time of a step as
JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers


def unpacked(tokens: np.ndarray, segments: np.ndarray, fill: int) -> torch.Tensor:
    """The segments of packed rows [rows, length], one a row, padded with `fill`."""
    parts = [row[ids == k] for row, ids in zip(tokens, segments, strict=True) for k in range(1, ids.max() + 1)]
    longest = max(map(len, parts))
    return torch.from_numpy(np.stack([np.pad(x, (0, longest - len(x)), constant_values=fill) for x in parts])).long()


def main() -> None:
    folder = Path(sys.argv[1])
    model = transformers.MarianMTModel.from_pretrained(folder / "hf").train()
    for side in (model.model.encoder, model.model.decoder):
        side.embed_tokens.padding_idx = None  # a target starts with it; transformers would keep its vector as it is
    given = np.load(folder / "batches.npz")
    sources, tokens, targets = (
        [unpacked(*both, fill) for both in zip(given[name], given[segments], strict=True)]
        for name, segments, fill in (
            ("encoder_tokens", "encoder_segment_ids", -1),
            ("tokens", "segment_ids", 0),
            ("targets", "segment_ids", -100),
        )
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, betas=tuple(given["betas"].tolist()), eps=float(given["eps"]))
    V, losses, begin = model.config.vocab_size, [], 0.0
    smoothing = float(given["smoothing"]) * V / (V - 1)  # torch spreads it over all words, lmjax over the others
    for step, rate in enumerate(given["rates"].tolist()):
        source = sources[step]
        mask = (source >= 0).long()
        logits = model(input_ids=source.clamp(min=0), attention_mask=mask, decoder_input_ids=tokens[step]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, V), targets[step].reshape(-1), label_smoothing=smoothing
        )
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        begin = time.perf_counter() if step == 0 else begin
    print(json.dumps({"losses": losses, "seconds_per_step": (time.perf_counter() - begin) / (len(losses) - 1)}))


if __name__ == "__main__":
    main()
