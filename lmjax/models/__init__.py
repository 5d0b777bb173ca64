"""The model families. A new one is a file here and a line in MODELS."""

from lmjax.errors import UserError, did_you_mean
from lmjax.models import bert, elmo, ernie, gpt, gpt1, roberta, transformer
from lmjax.models.architecture import Architecture, ModelConfig

MODELS: dict[str, Architecture] = {  # by Hugging Face's model_type, where it has one
    "marian": transformer.ARCHITECTURE,
    "elmo": elmo.ARCHITECTURE,
    "openai-gpt": gpt1.ARCHITECTURE,
    "bert": bert.ARCHITECTURE,
    "gpt2": gpt.ARCHITECTURE,
    "roberta": roberta.ARCHITECTURE,
    "ernie": ernie.ARCHITECTURE,
}


def architecture_of(cfg: ModelConfig) -> Architecture:
    """The family that a config belongs to."""
    return next(a for a in MODELS.values() if a.config is type(cfg))


def preset(name: str) -> ModelConfig:
    """A published shape by name. Raises UserError on an unknown name."""
    presets = {k: v for a in MODELS.values() for k, v in a.presets.items()}
    if name not in presets:
        raise UserError(f"unknown preset '{name}'{did_you_mean(name, presets)}")
    return presets[name]
