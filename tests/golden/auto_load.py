"""What transformers makes of Hugging Face directories and texts: IN.npz OUT.npz FOLDER...

Runs among the peers (.venv-parity). IN holds `texts`; OUT holds for folder i `i/ids`, `i/mask` (by AutoTokenizer),
`i/hidden` (by AutoModel) and `i/logits` (by AutoModelForPreTraining, where there is one, or AutoModelForCausalLM).
"""

import sys

import numpy as np
import torch
import transformers

texts, (out, *folders) = np.load(sys.argv[1])["texts"].tolist(), sys.argv[2:]
found = {}
for i, folder in enumerate(folders):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token  # GPT-1 has no other
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    heads = transformers.AutoModelForPreTraining.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
        outputs = heads(**batch)
    logits = outputs.prediction_logits if "prediction_logits" in outputs else outputs.logits
    arrays = {"ids": batch["input_ids"], "mask": batch["attention_mask"], "hidden": hidden, "logits": logits}
    found |= {f"{i}/{name}": array.numpy() for name, array in arrays.items()}
np.savez(out, **found)
