"""Models of Hugging Face Transformers, one of each of some architectures, made very small."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from tests.coverage.family import Family

os.environ.setdefault("HF_HUB_OFFLINE", "1")

_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_DECODER = {**_TEXT, "num_key_value_heads": 1, "head_dim": 8}
_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 32}
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
_WHISPER = {**_BART, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}
_WAVES = {
    **_TEXT,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def _ids() -> torch.Tensor:
    return torch.arange(1, 11).reshape(2, 5)


def _text() -> dict[str, Any]:
    return {"input_ids": _ids(), "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1] * 5])}


def _both() -> dict[str, Any]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids() + 20}


def _image() -> dict[str, Any]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)}


def _sound() -> dict[str, Any]:
    spectrum = torch.linspace(-1, 1, 2 * 8 * 16).reshape(2, 8, 16)
    return {"input_features": spectrum, "decoder_input_ids": _ids()}


def _wave() -> dict[str, Any]:
    return {"input_values": torch.linspace(-1, 1, 2 * 400).reshape(2, 400)}


def _case(
    name: str, config: dict[str, Any], inputs: Callable[[], dict[str, Any]]
) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        import transformers

        torch.manual_seed(0)
        cls = getattr(transformers, name)
        return cls(cls.config_class(**config)), inputs()

    return make


_CLIP = {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 8}
_MODELS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "AlbertModel": ({**_TEXT, "embedding_size": 8}, _text),
    "BartForConditionalGeneration": (_BART, _both),
    "BertForMaskedLM": (_TEXT, _text),
    "BertForSequenceClassification": ({**_TEXT, "num_labels": 3}, _text),
    "BertModel": (_TEXT, _text),
    "BloomForCausalLM": ({"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50}, _text),
    "CLIPModel": (_CLIP, lambda: {**_text(), **_image()}),
    "ConvNextForImageClassification": (
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        lambda: {"pixel_values": torch.linspace(-1, 1, 6144).reshape(2, 3, 32, 32)},
    ),
    "DebertaV2Model": ({**_TEXT, "relative_attention": True, "pos_att_type": ["p2c"]}, _text),
    "DistilBertForSequenceClassification": (
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
        _text,
    ),
    "ElectraModel": ({**_TEXT, "embedding_size": 8}, _text),
    "GPT2LMHeadModel": (_GPT2, _text),
    "GPTNeoXForCausalLM": (_TEXT, _text),
    "Gemma2ForCausalLM": (_DECODER, _text),
    "GemmaForCausalLM": (_DECODER, _text),
    "LlamaForCausalLM": (_DECODER, _text),
    "MambaForCausalLM": (
        {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50, "state_size": 4},
        lambda: {"input_ids": _ids()},
    ),
    "MistralForCausalLM": (_DECODER, _text),
    "MixtralForCausalLM": ({**_DECODER, "num_local_experts": 2}, _text),
    "Qwen2ForCausalLM": (_DECODER, _text),
    "Qwen3ForCausalLM": (_DECODER, _text),
    "RobertaForTokenClassification": (_TEXT, _text),
    "SiglipModel": (
        {"text_config": _TEXT, "vision_config": _VISION},
        lambda: {"input_ids": torch.arange(1, 11).reshape(2, 5), **_image()},
    ),
    "SwinModel": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
        | {"image_size": 16, "patch_size": 4},
        _image,
    ),
    "T5ForConditionalGeneration": (_T5, _both),
    "ViTForImageClassification": (_VISION, _image),
    "Wav2Vec2ForCTC": (_WAVES, _wave),
    "WhisperForConditionalGeneration": (_WHISPER, _sound),
}

FAMILY = Family(
    title=f"Transformers ({len(_MODELS)} architectures)",
    exist=lambda: list(_MODELS),
    cases={name: _case(name, *made) for name, made in _MODELS.items()},
)
