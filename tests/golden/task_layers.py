"""What transformers makes of directories of fine-tuned models: IN OUT FOLDER...

Runs among the peers (.venv-parity). IN holds `NAME/FEATURE` for each folder NAME. OUT holds the outputs of the model as
it is read, `NAME/OUTPUT`, and of one of the same class with other random weights, `NAME/theirs/OUTPUT`, which is saved
as FOLDER/theirs. A tensor that is missing or not wanted is an error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def outputs(model: Any, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = model.eval()(**{name: torch.from_numpy(x).long() for name, x in features.items()})
    return {name: value.numpy() for name, value in found.items() if name.endswith("logits")}


def main() -> None:
    with np.load(sys.argv[1], allow_pickle=False) as file:
        arrays = dict(file)
    found = {}
    torch.manual_seed(int(arrays.pop("seed")))
    for folder in map(Path, sys.argv[3:]):
        content = json.loads((folder / "config.json").read_text())
        model_of: Any = getattr(transformers, content["architectures"][0])
        model, info = model_of.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), (folder, info)
        features = {k.partition("/")[2]: x for k, x in arrays.items() if k.startswith(f"{folder.name}/")}
        found |= {f"{folder.name}/{name}": x for name, x in outputs(model, features).items()}
        for parameter in model.parameters():
            parameter.data = 0.2 * torch.randn_like(parameter)
        model.save_pretrained(folder / "theirs")
        found |= {f"{folder.name}/theirs/{name}": x for name, x in outputs(model, features).items()}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
