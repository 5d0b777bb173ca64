"""What transformers makes of a directory of a reward model: IN OUT FOLDER.

Runs among the peers (.venv-parity). IN holds `tokens` [texts, length] and `lengths` [texts]; OUT the scores, each text
alone (`one_by_one`) and, where the model has a pad token, all at once (`at_once`). A tensor that is missing or not
wanted is an error.
"""

import sys

import numpy as np
import torch
import transformers


def main() -> None:
    with np.load(sys.argv[1], allow_pickle=False) as file:
        tokens, lengths = file["tokens"], file["lengths"]
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[3], output_loading_info=True)
    assert not any(info.values()), info
    model.eval()
    texts = [torch.from_numpy(row[:length]).long() for row, length in zip(tokens, lengths, strict=True)]
    with torch.no_grad():
        found = {"one_by_one": torch.cat([model(text[None]).logits[:, 0] for text in texts]).numpy()}
        if (pad := model.config.pad_token_id) is not None:
            rows = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
            found["at_once"] = model(rows, attention_mask=(rows != pad).long()).logits[:, 0].numpy()
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
