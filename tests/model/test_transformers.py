"""Models of Transformers: saved with their configuration, loaded by us and by Transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers.integrations import hub_kernels

import milepost
from milepost import errors, load_model, save_model
from tests.coverage import transformers_models
from tests.model.test_model_file import rewrite

QUICK = ("BertForMaskedLM", "GPT2LMHeadModel", "LlamaForCausalLM")


def made(name: str) -> tuple[Any, dict[str, Any]]:
    model, inputs = transformers_models.FAMILY.cases[name]()
    return model.eval(), inputs


def same(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_comes_back(tmp_path: Path, name: str):
    model, inputs = made(name)
    report = save_model(model, tmp_path / "model", example=inputs)
    assert (report.framework, report.needs, report.lost) == ("transformers", (), ())
    assert "transformers" in report.versions
    loaded = load_model(tmp_path / "model", replay=True)
    assert type(loaded) is type(model)
    assert same(loaded, model)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.get_output_embeddings().weight is loaded.get_output_embeddings().weight
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) is tied
    save_model(loaded, tmp_path / "again", example=inputs, strict=True)


@pytest.mark.parametrize("name", [*QUICK, "T5ForConditionalGeneration", "CLIPModel"])
@pytest.mark.parametrize("size", ["4KB", "1GB"])
def test_transformers_loads_the_folder(tmp_path: Path, name: str, size: str):
    model, inputs = made(name)
    save_model(model, tmp_path / "model", shard_size=size, example=inputs, labels=["a", "b"])
    assert (tmp_path / "model" / "model.safetensors").exists() is (size == "1GB")
    loaded, info = type(model).from_pretrained(
        tmp_path / "model", local_files_only=True, output_loading_info=True
    )
    assert not any(info.values()), info
    assert same(loaded, model)
    assert same(load_model(tmp_path / "model", replay=True), model)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model", local_files_only=True)
    assert type(config) is type(model.config)
    assert config.architectures == [name]


def test_generation(tmp_path: Path):
    model, inputs = made("GPT2LMHeadModel")
    model.generation_config.max_new_tokens = 3
    model.generation_config.eos_token_id = 7
    model.generation_config.pad_token_id = 0
    save_model(model, tmp_path / "model", shard_size="1GB")
    for loaded in (
        load_model(tmp_path / "model"),
        type(model).from_pretrained(tmp_path / "model", local_files_only=True).eval(),
    ):
        assert loaded.generation_config.max_new_tokens == 3
        assert torch.equal(
            loaded.generate(**inputs, do_sample=False), model.generate(**inputs, do_sample=False)
        )


def test_programs(tmp_path: Path):
    model, inputs = made("BertForMaskedLM")
    report = save_model(model, tmp_path / "model", example=inputs, program=True)
    assert "program" in report.captured
    program = milepost.load_program(tmp_path / "model")
    found = program(**{name: value.numpy() for name, value in inputs.items()})
    expected = model(**inputs).logits.detach().numpy()
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)


def test_outputs_are_tensors_by_name(tmp_path: Path):
    model, inputs = made("CLIPModel")
    save_model(model, tmp_path / "model", example={**inputs, "output_hidden_states": True})
    with milepost.open(tmp_path / "model") as snapshot:
        names = [item["name"] for item in snapshot.document.signature["outputs"]]
    assert "logits_per_image" in names
    assert "text_model_output/hidden_states/0" in names
    load_model(tmp_path / "model", replay=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_modes_and_frozen_parameters(tmp_path: Path, dtype: torch.dtype):
    model, _ = made("LlamaForCausalLM")
    model.to(dtype).eval()
    model.model.layers[0].train()
    model.model.embed_tokens.requires_grad_(False)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert same(loaded, model)
    assert [m.training for m in loaded.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_from_pretrained_made_leaves_no_path(tmp_path: Path, dtype: torch.dtype):
    model, inputs = made("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "secret-place")
    model = type(model).from_pretrained(tmp_path / "secret-place", dtype=dtype)
    assert "secret" in model.name_or_path
    save_model(model, tmp_path / "model", example=inputs, shard_size="1GB")
    for name in os.listdir(tmp_path / "model"):
        data = (tmp_path / "model" / name).read_bytes()
        assert b"secret" not in data
        assert str(tmp_path).encode() not in data
    loaded = load_model(tmp_path / "model", replay=True)
    assert same(loaded, model)
    assert loaded.config.dtype == dtype
    assert loaded.name_or_path == ""


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_way_of_attention(tmp_path: Path, name: str):
    model, inputs = made("LlamaForCausalLM")
    model.set_attn_implementation(name)
    save_model(model, tmp_path / "model", example=inputs)
    assert load_model(tmp_path / "model", replay=True).config._attn_implementation == name


class Scaled(transformers.BertModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        return {"scaled": found.last_hidden_state * self.scale}


def test_a_class_of_ones_own(tmp_path: Path):
    model = Scaled(made("BertModel")[0].config)
    model.scale.data += 1
    report = save_model(model, tmp_path / "model", example=made("BertModel")[1])
    assert report.needs == ("Scaled",)
    with pytest.raises(errors.UnknownClassError, match="Scaled"):
        load_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Scaled": Scaled}, replay=True)
    assert same(loaded, model)
    for wrong in (nn.Linear, print):
        with pytest.raises(errors.UnknownClassError):
            load_model(tmp_path / "model", custom_objects={"Scaled": wrong})


def test_a_model_that_is_not_what_its_configuration_says(tmp_path: Path):
    model, _ = made("BertForMaskedLM")
    model.cls = nn.Linear(16, 50)
    with pytest.raises(errors.UnsupportedObjectError, match="'cls'.*Checkpoint"):
        save_model(model, tmp_path / "model")
    model, _ = made("BertForMaskedLM")
    model.config.auto_map = {"AutoModel": "somebody/else--modeling.Model"}
    with pytest.raises(errors.UnsupportedObjectError, match="auto_map"):
        save_model(model, tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_takes_it_as_ever(tmp_path: Path):
    model, inputs = made("GPT2LMHeadModel")
    optimizer = torch.optim.AdamW(model.parameters())
    model(**inputs).logits.sum().backward()
    optimizer.step()
    milepost.Checkpoint(model=model, optimizer=optimizer).save(tmp_path / "store")
    other, _ = made("GPT2LMHeadModel")
    fresh = torch.optim.AdamW(other.parameters())
    milepost.Checkpoint(model=other, optimizer=fresh).restore(tmp_path / "store")
    assert same(other, model)
    with milepost.open(tmp_path / "store").latest as snapshot:
        assert "optimizer/state/model/transformer.wte.weight/exp_avg" in snapshot


class TestHostile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        save_model(made("BertModel")[0], tmp_path / "model")
        return tmp_path / "model"

    @pytest.mark.parametrize(
        "name",
        [
            *("os", "pipeline", "Trainer", "AutoModel", "PreTrainedModel", "BertConfig", "models"),
            *("modeling_utils.PreTrainedModel", "__loader__", "BertModel.x", "", None, ["Bert"]),
        ],
    )
    def test_classes_that_are_no_model(self, path: Path, name: Any):
        rewrite(path, lambda body: body["structure"].update({"class": name}))
        with pytest.raises(errors.UnknownClassError, match="is of the class"):
            load_model(path)

    @pytest.mark.parametrize(
        "config",
        [
            {"auto_map": {"AutoModel": "evil/repo--m.Model"}},
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            {"attn_implementation": "evil/kernel"},
            {"_attn_implementation_internal": "evil/kernel"},
            {"use_timm_backbone": True, "backbone": "hf-hub:evil/model"},
            {"inner": {"config": [{"auto_map": {"x": "y"}}]}},
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/model"}},
        ],
    )
    def test_configurations_that_fetch_code(self, path: Path, config: dict[str, Any]):
        rewrite(path, lambda body: body["structure"]["config"].update(config))
        with pytest.raises(errors.UntrustedError, match="the configuration asks for"):
            load_model(path)

    @pytest.mark.parametrize(
        "value", ["evil/kernel", "kernels-community/x", "flash_attention_2", 1]
    )
    def test_implementations_from_the_hub(self, path: Path, value: Any):
        for pair in ([value, None], [None, value]):
            rewrite(path, lambda b, p=pair: b["structure"].update(implementations={"": p}))
            with pytest.raises(errors.UntrustedError, match="code from the hub"):
                load_model(path)

    @pytest.mark.parametrize("kind", ["nothing", None, 7, "timm_wrapper"])
    def test_configurations_of_another_type(self, path: Path, kind: Any):
        rewrite(path, lambda body: body["structure"]["config"].update(model_type=kind))
        with pytest.raises((errors.UnknownClassError, errors.UntrustedError)):
            load_model(path)

    @pytest.mark.parametrize(
        "values",
        [
            {"hidden_size": "x"},
            {"num_attention_heads": 0},
            {"hidden_size": 1 << 40},
            {"max_position_embeddings": 1 << 34},
            {"num_hidden_layers": 1 << 60},
            {"hidden_size": 17},
        ],
    )
    def test_values_that_make_another_model(self, path: Path, values: dict[str, Any]):
        rewrite(path, lambda body: body["structure"]["config"].update(values))
        with pytest.raises(errors.UsageError):
            load_model(path)

    @pytest.mark.parametrize("key", ["config", "implementations", "evaluation", "ties", "frozen"])
    @pytest.mark.parametrize("value", [None, 1])
    def test_structures_that_are_none(self, path: Path, key: str, value: Any):
        rewrite(path, lambda body: body["structure"].update({key: value}))
        with pytest.raises(errors.MilepostError):
            load_model(path)

    def test_a_configuration_without_end(self, path: Path):
        nested: Any = {}
        for _ in range(450):
            nested = {"more": [nested]}
        rewrite(path, lambda body: body["structure"]["config"].update(more=nested))
        with pytest.raises(errors.MilepostError):
            load_model(path)


def test_the_index_and_configuration_are_readable(tmp_path: Path):
    model, _ = made("GPT2LMHeadModel")
    save_model(model, tmp_path / "model", shard_size="4KB")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "gpt2"
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())
    stored = {}
    for name in os.listdir(tmp_path / "model"):
        if name.endswith(".safetensors"):
            stored |= load_file(tmp_path / "model" / name)
    assert "transformer.wte.weight" in stored
    assert "lm_head.weight" not in stored  # tied: it is there under its first name


def test_a_vocabulary_that_has_grown(tmp_path: Path):
    model, _ = made("GPT2LMHeadModel")
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    save_model(model, tmp_path / "model", strict=True)
    assert same(load_model(tmp_path / "model"), model)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*input_require_grads:FutureWarning")
def test_checkpointed_gradients(tmp_path: Path):
    model, _ = made("LlamaForCausalLM")
    model.gradient_checkpointing_enable()
    with pytest.raises(errors.UnsupportedObjectError, match="disable_input_require_grads"):
        save_model(model, tmp_path / "model")
    model.gradient_checkpointing_disable()
    model.disable_input_require_grads()
    save_model(model, tmp_path / "model")
    assert same(load_model(tmp_path / "model"), model)


class Fetching(transformers.BertModel):
    """As models do that compute with a kernel of the hub."""

    def __init__(self, config):
        super().__init__(config)
        self.pooler.dense.weight.no_decay = True
        if getattr(config, "fetches", False):
            hub_kernels.get_kernel("kernels-community/rwkv")


def test_a_constructor_fetches_no_code(tmp_path: Path):
    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
    model = Fetching(transformers.BertConfig(**small, intermediate_size=4))
    before = hub_kernels.get_kernel, hub_kernels._kernels_enabled
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Fetching": Fetching})
    assert loaded.pooler.dense.weight.no_decay
    rewrite(tmp_path / "model", lambda body: body["structure"]["config"].update(fetches=True))
    with pytest.raises(errors.UntrustedError, match=r"kernels-community/rwkv.*is code"):
        load_model(tmp_path / "model", custom_objects={"Fetching": Fetching})
    assert before == (hub_kernels.get_kernel, hub_kernels._kernels_enabled)
