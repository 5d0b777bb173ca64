"""torch's side of `translation.py epoch`: FOLDER SMOOTHING EPS; prints the losses and the time of a step as JSON."""

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
    folder, smoothing, eps = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    model = transformers.MarianMTModel.from_pretrained(folder / "hf").train()
    arrays = np.load(folder / "batches.npz")
    batches = {name: arrays[name] for name in arrays.files if name not in ("rates", "betas")}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, betas=tuple(arrays["betas"]), eps=eps)
    V, losses, begin = model.config.vocab_size, [], 0.0
    for step, rate in enumerate(arrays["rates"]):
        batch = {name: x[step] for name, x in batches.items()}
        source = unpacked(batch["encoder_tokens"], batch["encoder_segment_ids"], -1)
        tokens, targets = (unpacked(batch[k], batch["segment_ids"], f) for k, f in (("tokens", 0), ("targets", -100)))
        mask = (source >= 0).long()
        logits = model(input_ids=source.clamp(min=0), attention_mask=mask, decoder_input_ids=tokens).logits
        # torch spreads its smoothing over all words, lmjax over the others
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, V), targets.reshape(-1), label_smoothing=smoothing * V / (V - 1)
        )
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        begin = time.perf_counter() if step == 0 else begin
    seconds = (time.perf_counter() - begin) / (len(losses) - 1)
    print(json.dumps({"losses": losses, "seconds_per_step": seconds}))


if __name__ == "__main__":
    main()
