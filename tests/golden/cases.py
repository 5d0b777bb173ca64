"""The models of `make_models.py`: tiny ones of each family for the golden records, others and the published shapes for
live parity, and the classes that lmjax writes for."""

import transformers

TINY_BERT = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_BERT |= {"intermediate_size": 40, "max_position_embeddings": 14}
TINY_ROBERTA = TINY_BERT | {"max_position_embeddings": 16, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
TINY_ERNIE = TINY_BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-5}
TINY_GPT = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 40, "n_positions": 14}
TINY_GPT |= {"bos_token_id": 60, "eos_token_id": 60}
TINY_GPT1 = {k: v for k, v in TINY_GPT.items() if k != "n_inner"}  # which is 4 n_embd
TINY_NEO = {"vocab_size": 61, "hidden_size": 16, "num_layers": 4, "num_heads": 2, "intermediate_size": 40}
TINY_NEO |= {"max_position_embeddings": 14, "attention_types": [[["global", "local"], 2]]}
TINY_NEO |= {"bos_token_id": 60, "eos_token_id": 60}
TINY_MARIAN = {"vocab_size": 61, "d_model": 16, "max_position_embeddings": 14, "scale_embedding": True}
TINY_MARIAN |= {f"{side}_layers": 2 for side in ("encoder", "decoder")}
TINY_MARIAN |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
TINY_MARIAN |= {f"{side}_ffn_dim": 40 for side in ("encoder", "decoder")}
# Translations do not start from the padding entry, to whose embedding transformers gives no gradient.
TINY_MARIAN |= {"pad_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 3, "forced_eos_token_id": None}
BASE_MARIAN = {"vocab_size": 37000, "d_model": 512, "max_position_embeddings": 512}
BASE_MARIAN |= {f"{side}_layers": 6 for side in ("encoder", "decoder")}
BASE_MARIAN |= {f"{side}_attention_heads": 8 for side in ("encoder", "decoder")}
BASE_MARIAN |= {f"{side}_ffn_dim": 2048 for side in ("encoder", "decoder")}
# name: (config, row length, does it also train)
GOLDEN = {
    "bert": (transformers.BertConfig(**TINY_BERT), 12, True),
    "ernie": (transformers.ErnieConfig(**TINY_ERNIE), 12, True),
    "gpt2": (transformers.GPT2Config(**TINY_GPT), 12, True),
    "openai-gpt": (transformers.OpenAIGPTConfig(**TINY_GPT1), 12, True),
    "gpt_neo": (transformers.GPTNeoConfig(**TINY_NEO, window_size=3), 12, False),
    "marian": (transformers.MarianConfig(**TINY_MARIAN, activation_function="relu"), 12, True),
    "roberta": (transformers.RobertaConfig(**TINY_ROBERTA), 12, True),
}
LIVE = {
    "bert-tiny": (
        transformers.BertConfig(
            **TINY_BERT | {"vocab_size": 256, "hidden_size": 48, "num_attention_heads": 3, "type_vocab_size": 3},
            hidden_act="gelu_new",
            layer_norm_eps=1e-5,
        ),
        14,
        True,
    ),
    "gpt2-tiny": (
        transformers.GPT2Config(
            **TINY_GPT | {"vocab_size": 300, "n_embd": 48, "n_head": 3, "n_layer": 3, "n_inner": None},
            activation_function="gelu",
            layer_norm_epsilon=1e-6,
        ),
        14,
        True,
    ),
    "openai-gpt-tiny": (
        transformers.OpenAIGPTConfig(
            **TINY_GPT1 | {"vocab_size": 300, "n_embd": 48, "n_head": 3, "n_layer": 3},
            afn="relu",
            layer_norm_epsilon=1e-6,
        ),
        14,
        True,
    ),
    "roberta-tiny": (
        transformers.RobertaConfig(
            **TINY_ROBERTA | {"vocab_size": 256, "hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3}
        ),
        14,
        True,
    ),
    "marian-tiny": (
        transformers.MarianConfig(
            **TINY_MARIAN | {"vocab_size": 300, "d_model": 48, "encoder_layers": 3, "decoder_layers": 3},
            activation_function="swish",
        ),
        14,
        True,
    ),
    "ernie-tiny": (
        transformers.ErnieConfig(
            **TINY_ERNIE | {"vocab_size": 256, "hidden_size": 48, "num_attention_heads": 3, "type_vocab_size": 4}
        ),
        14,
        True,
    ),
    "gpt_neo-tiny": (transformers.GPTNeoConfig(**TINY_NEO | {"hidden_size": 48}, window_size=5), 14, False),
    "openai-gpt-base": (transformers.OpenAIGPTConfig(), 64, False),
    "bert-base": (transformers.BertConfig(), 64, False),
    "gpt2-small": (transformers.GPT2Config(), 64, False),
    "marian-base": (
        transformers.MarianConfig(**TINY_MARIAN | BASE_MARIAN, activation_function="relu"),
        64,
        False,
    ),
    "ernie-base": (
        transformers.ErnieConfig(vocab_size=18000, max_position_embeddings=513, hidden_act="relu", layer_norm_eps=1e-5),
        64,
        False,
    ),
    "roberta-base": (  # transformers' defaults are not those of the released models
        transformers.RobertaConfig(
            vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
        ),
        64,
        False,
    ),
}
CLASSES = {  # each class that lmjax writes for
    "BertForPreTraining": "bert",
    "BertForMaskedLM": "bert",
    "BertForNextSentencePrediction": "bert",
    "BertModel": "bert",
    "GPT2LMHeadModel": "gpt2",
    "GPT2Model": "gpt2",
    "OpenAIGPTLMHeadModel": "openai-gpt",
    "OpenAIGPTModel": "openai-gpt",
    "MarianMTModel": "marian",
    "ErnieForPreTraining": "ernie",
    "ErnieForMaskedLM": "ernie",
    "ErnieForNextSentencePrediction": "ernie",
    "ErnieModel": "ernie",
    "RobertaForMaskedLM": "roberta",
    "RobertaModel": "roberta",
}
