"""Keras: every layer class of `keras.layers`, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import keras
from keras import layers
from tests.coverage.family import Family

Case = Callable[[], tuple[Any, Any]]

VECTOR, SEQUENCE, VOLUME = (6,), (6, 3), (4, 4, 4, 2)
IMAGE, SQUARE = (16, 16, 3), (8, 8, 2)
CLIP1, CLIP2, CLIP3 = (2, 6, 2), (2, 6, 6, 2), (2, 4, 4, 4, 2)
MERGING = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
WORDS = [["tea", "with"], ["milk", "tea"]]


def exist() -> list[str]:
    """Every class once, whatever its aliases."""
    found = [value for value in vars(layers).values() if isinstance(value, type)]
    return sorted({kind.__name__ for kind in found if issubclass(kind, keras.Layer)})


def numbers(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(len(shape)).random((2, *shape), np.float32) * scale


def whole(*shape: int, below: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, below, (2, *shape)).astype("int32")


def model_of(layer: Any, inputs: Any, dtype: str | None = None) -> tuple[Any, Any]:
    """A model around one layer, which takes one input or a list of several."""
    several = isinstance(inputs, list) and isinstance(inputs[0], np.ndarray)
    if dtype == "string" and keras.backend.backend() != "tensorflow":
        layer.build(None)
        return layer, inputs  # no model takes texts there
    ends = [
        keras.Input(batch_shape=np.shape(part), dtype=dtype or part.dtype.name)
        for part in (inputs if several else [inputs])
    ]
    outputs = layer(ends if several else ends[0])
    return keras.Model(ends if several else ends[0], outputs), inputs


def one(kind: str, shape: Any, options: dict[str, Any]) -> Case:
    def make() -> tuple[Any, Any]:
        keras.utils.set_random_seed(3)
        scale = 255.0 if shape == IMAGE else 1.0
        return model_of(getattr(layers, kind)(**options), numbers(*shape, scale=scale))

    return make


# Layers of one input, by the shape of it: class (and variant) -> arguments.
SIMPLE: dict[Any, dict[str, dict[str, Any]]] = {
    VECTOR: {
        "Activation": {"activation": "tanh"},
        "ActivityRegularization": {"l1": 0.1},
        "AlphaDropout": {"rate": 0.2, "seed": 4},
        "BatchNormalization": {},
        "Dense": {"units": 3},
        "Dense with everything": {
            "units": 3,
            "activation": "gelu",
            "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
            "bias_constraint": keras.constraints.MaxNorm(2),
            "kernel_initializer": keras.initializers.Orthogonal(0.5, seed=1),
            "activity_regularizer": "l2",
        },
        "Dense mixed_float16": {"units": 3, "dtype": "mixed_float16"},
        "Dense bfloat16": {"units": 3, "dtype": "bfloat16"},
        "Dense frozen": {"units": 3, "trainable": False},
        "Dense LoRA": {"units": 3, "lora_rank": 2, "lora_alpha": 3},
        "Dropout": {"rate": 0.5},
        "ELU": {"alpha": 0.5},
        "GaussianDropout": {"rate": 0.5},
        "GaussianNoise": {"stddev": 0.5},
        "Identity": {},
        "LayerNormalization": {"epsilon": 1e-4},
        "LeakyReLU": {"negative_slope": 0.2},
        "PReLU": {"alpha_initializer": "ones"},
        "RMSNormalization": {},
        "ReLU": {"max_value": 0.8, "threshold": 0.1},
        "RepeatVector": {"n": 3},
        "Rescaling": {"scale": 2.0, "offset": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]},
        "Reshape": {"target_shape": (3, -1)},
        "Softmax": {"axis": -1},
        "UnitNormalization": {},
    },
    SEQUENCE: {
        "AdaptiveAveragePooling1D": {"output_size": 2},
        "AdaptiveMaxPooling1D": {"output_size": 2},
        "AveragePooling1D": {"pool_size": 2},
        "Conv1D": {"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        "Conv1DTranspose": {"filters": 4, "kernel_size": 3},
        "Cropping1D": {"cropping": (1, 2)},
        "DepthwiseConv1D": {"kernel_size": 3, "depth_multiplier": 2},
        "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (None, 4), "bias_axes": "d"},
        "EinsumDense LoRA": {
            "equation": "abc,cd->abd",
            "output_shape": (None, 4),
            "lora_rank": 2,
        },
        "GRU": {"units": 4, "return_sequences": True},
        "GRU stateful": {"units": 4, "stateful": True, "reset_after": False},
        "GlobalAveragePooling1D": {},
        "GlobalMaxPooling1D": {"keepdims": True},
        "LSTM": {"units": 4, "return_state": True, "go_backwards": True},
        "LSTM stateful": {"units": 4, "stateful": True},
        "Masking": {"mask_value": 0.5},
        "MaxPooling1D": {},
        "Permute": {"dims": (2, 1)},
        "SeparableConv1D": {"filters": 4, "kernel_size": 3},
        "SimpleRNN": {"units": 4, "dropout": 0.2, "seed": 1},
        "SpatialDropout1D": {"rate": 0.5},
        "UpSampling1D": {},
        "ZeroPadding1D": {},
    },
    SQUARE: {
        "AdaptiveAveragePooling2D": {"output_size": (2, 3)},
        "AdaptiveMaxPooling2D": {"output_size": 2},
        "AveragePooling2D": {"pool_size": 2, "strides": 1, "padding": "same"},
        "Conv2D": {"filters": 4, "kernel_size": (3, 2), "groups": 2, "strides": 2},
        "Conv2DTranspose": {"filters": 4, "kernel_size": 3, "strides": 2, "output_padding": 1},
        "Cropping2D": {},
        "DepthwiseConv2D": {"kernel_size": 3},
        "Flatten": {},
        "GlobalAveragePooling2D": {},
        "GlobalMaxPooling2D": {},
        "GroupNormalization": {"groups": 2},
        "MaxPooling2D": {},
        "SeparableConv2D": {"filters": 4, "kernel_size": 3},
        "SpatialDropout2D": {"rate": 0.5},
        "UpSampling2D": {"interpolation": "bilinear"},
        "ZeroPadding2D": {"padding": ((1, 2), (0, 1))},
    },
    VOLUME: {
        "AdaptiveAveragePooling3D": {"output_size": 2},
        "AdaptiveMaxPooling3D": {"output_size": 2},
        "AveragePooling3D": {"pool_size": 2},
        "Conv3D": {"filters": 3, "kernel_size": 2},
        "Conv3DTranspose": {"filters": 3, "kernel_size": 2},
        "Cropping3D": {},
        "GlobalAveragePooling3D": {},
        "GlobalMaxPooling3D": {},
        "MaxPooling3D": {},
        "SpatialDropout3D": {"rate": 0.5},
        "UpSampling3D": {},
        "ZeroPadding3D": {},
    },
    CLIP1: {"ConvLSTM1D": {"filters": 2, "kernel_size": 3}},
    CLIP2: {"ConvLSTM2D": {"filters": 2, "kernel_size": 3, "return_sequences": True}},
    CLIP3: {"ConvLSTM3D": {"filters": 2, "kernel_size": 2}},
    IMAGE: {
        "AugMix": {"seed": 1},
        "AutoContrast": {},
        "CenterCrop": {"height": 4, "width": 5},
        "ContrastLimitedAdaptiveHistogramEqualization": {"tile_grid_size": (2, 2)},
        "CutMix": {"factor": 0.5, "seed": 1},
        "MixUp": {"alpha": 0.3},
        "RandAugment": {"num_ops": 1},
        "RandomBrightness": {"factor": (0.1, 0.2)},
        "RandomColorDegeneration": {"factor": 0.5},
        "RandomColorJitter": {"hue_factor": 0.1, "seed": 2},
        "RandomContrast": {"factor": 0.5},
        "RandomCrop": {"height": 4, "width": 4},
        "RandomElasticTransform": {},
        "RandomErasing": {},
        "RandomFlip": {"mode": "horizontal"},
        "RandomGaussianBlur": {"factor": 0.5},
        "RandomGrayscale": {},
        "RandomHue": {"factor": 0.5},
        "RandomInvert": {},
        "RandomPerspective": {},
        "RandomPosterization": {"factor": 4},
        "RandomRotation": {"factor": 0.2, "fill_mode": "wrap"},
        "RandomSaturation": {"factor": 0.5},
        "RandomSharpness": {"factor": 0.5},
        "RandomShear": {"x_factor": 0.2},
        "RandomTranslation": {"height_factor": 0.1, "width_factor": (-0.2, 0.3)},
        "RandomZoom": {"height_factor": 0.2},
        "Resizing": {"height": 5, "width": 7, "crop_to_aspect_ratio": True},
        "Solarization": {"addition_factor": 0.2},
    },
    (4000,): {
        "MelSpectrogram": {"fft_length": 256, "sequence_stride": 64, "num_mel_bins": 8},
    },
    (400, 1): {"STFTSpectrogram": {"frame_length": 32, "frame_step": 16, "mode": "real"}},
}


def merging(kind: str, **options: Any) -> Case:
    return lambda: model_of(getattr(layers, kind)(**options), [numbers(6), numbers(6, scale=2)])


def around(make: Callable[[], Any], *shape: int) -> Case:
    """A model around a layer that has layers inside of it."""
    return lambda: model_of(make(), numbers(*shape))


def of_ids(make: Callable[[], Any], *shape: int, below: int = 5) -> Case:
    return lambda: model_of(make(), whole(*shape, below=below))


def of_words(make: Callable[[], Any], words: Any = WORDS) -> Case:
    return lambda: model_of(make(), words, "string")


def quantised(mode: str, make: Callable[[], Any], inputs: Any) -> Case:
    def build() -> tuple[Any, Any]:
        model, _ = model_of(make(), inputs)
        model.quantize(mode)
        return model, inputs

    return build


def adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


def of_itself(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer(x, x)


def query_and_value(layer: Any) -> tuple[Any, Any]:
    query, value = keras.Input((6, 4)), keras.Input((5, 4))
    return keras.Model([query, value], layer(query, value)), [numbers(6, 4), numbers(5, 4)]


def attention(layer: Any) -> tuple[Any, Any]:
    query, value = keras.Input((6, 4)), keras.Input((5, 4))
    return keras.Model([query, value], layer([query, value])), [numbers(6, 4), numbers(5, 4)]


def dense_with_trained_lora() -> tuple[Any, Any]:
    model, x = model_of(layers.Dense(3), numbers(6))
    model.layers[-1].enable_lora(2, lora_alpha=5)
    model.compile("adam", "mse")
    model.fit(x, np.ones((2, 3), "float32"), verbose=0)
    return model, x


def reversed_embedding() -> tuple[Any, Any]:
    layer = layers.ReversibleEmbedding(7, 4)
    ids = keras.Input((3,), dtype="int32")
    return keras.Model(ids, layer(layer(ids), reverse=True)), whole(3)


def equalization() -> tuple[Any, Any]:
    layer = layers.Equalization(bins=64)  # which gives back its input: no model takes that
    layer.build(None)
    return layer, numbers(*IMAGE, scale=255.0)


def bounding_boxes() -> tuple[Any, Any]:
    boxes = {"boxes": numbers(3, 4), "labels": numbers(3)}
    layer = layers.MaxNumBoundingBoxes(5, bounding_box_format="xyxy")
    layer.build(None)
    return layer, {"images": numbers(*SQUARE), "bounding_boxes": boxes}


SPECIAL: dict[str, Case] = {
    **{
        k: merging(k)
        for k in ["Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"]
    },
    "Dot": merging("Dot", axes=1, normalize=True),
    "AdditiveAttention": lambda: attention(layers.AdditiveAttention()),
    "Attention": lambda: attention(layers.Attention(use_scale=True, score_mode="concat")),
    "Bidirectional": around(
        lambda: layers.Bidirectional(
            layers.LSTM(3), backward_layer=layers.GRU(3, go_backwards=True)
        ),
        *SEQUENCE,
    ),
    "CategoryEncoding": of_ids(lambda: layers.CategoryEncoding(6, output_mode="count"), 3),
    "Dense float64": lambda: model_of(layers.Dense(3, dtype="float64"), numbers(6)),
    "Dense LoRA trained": dense_with_trained_lora,
    "Dense int8": quantised("int8", lambda: layers.Dense(3), numbers(6)),
    "Dense int4": quantised("int4", lambda: layers.Dense(4), numbers(6)),
    "Dense float8": quantised("float8", lambda: layers.Dense(3), numbers(6)),
    "Discretization": around(lambda: layers.Discretization([0.2, 0.4, 0.9]), 3),
    "Discretization adapted": around(
        lambda: adapted(layers.Discretization(num_bins=3), numbers(50)), 3
    ),
    "EinsumDense int8": quantised(
        "int8", lambda: layers.EinsumDense("abc,cd->abd", (None, 4)), numbers(6, 3)
    ),
    "EinsumDense int4": quantised(
        "int4", lambda: layers.EinsumDense("abc,cd->abd", (None, 4)), numbers(6, 4)
    ),
    "EinsumDense float8": quantised(
        "float8", lambda: layers.EinsumDense("abc,cd->abd", (None, 4)), numbers(6, 4)
    ),
    "Embedding": of_ids(lambda: layers.Embedding(5, 4, mask_zero=True), 3),
    "Embedding LoRA": of_ids(lambda: layers.Embedding(5, 4, lora_rank=2), 3),
    "Embedding int8": quantised("int8", lambda: layers.Embedding(5, 4), whole(3)),
    "Embedding int4": quantised("int4", lambda: layers.Embedding(5, 4), whole(3)),
    "Equalization": equalization,
    "GRUCell": around(lambda: layers.RNN(layers.GRUCell(4)), *SEQUENCE),
    "GroupedQueryAttention": lambda: query_and_value(layers.GroupQueryAttention(4, 4, 2)),
    "HashedCrossing": lambda: model_of(layers.HashedCrossing(7), [whole(1), whole(1, below=9)]),
    "Hashing": of_ids(lambda: layers.Hashing(4, salt=133), 3),
    "Hashing of words": of_words(lambda: layers.Hashing(4, mask_value="tea")),
    "InputLayer": lambda: (
        keras.Sequential([layers.InputLayer((6,)), layers.Dense(2)]),
        numbers(6),
    ),
    "IntegerLookup": of_ids(lambda: layers.IntegerLookup(vocabulary=[4, 2], mask_token=0), 3),
    "IntegerLookup tf_idf": of_ids(
        lambda: adapted(layers.IntegerLookup(output_mode="tf_idf"), whole(9)), 3
    ),
    "Lambda": around(lambda: layers.Lambda(lambda x: x * 2), 6),
    "LSTMCell": around(lambda: layers.RNN(layers.LSTMCell(4), return_state=True), *SEQUENCE),
    "MaxNumBoundingBoxes": bounding_boxes,
    "MultiHeadAttention": lambda: query_and_value(
        layers.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1)
    ),
    "MultiHeadAttention int8": quantised(
        "int8", lambda: of_itself(layers.MultiHeadAttention(2, 4)), numbers(6, 4)
    ),
    "Normalization": around(lambda: layers.Normalization(mean=2.0, variance=3.0), 6),
    "Normalization adapted": around(lambda: adapted(layers.Normalization(), numbers(6)), 6),
    "Pipeline": around(
        lambda: layers.Pipeline([layers.RandomFlip(seed=1), layers.CenterCrop(4, 4)]), *IMAGE
    ),
    "RNN": around(
        lambda: layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(3)], stateful=True), *SEQUENCE
    ),
    "ReversibleEmbedding": reversed_embedding,
    "ReversibleEmbedding int8": quantised(
        "int8", lambda: layers.ReversibleEmbedding(7, 4), whole(3)
    ),
    "SimpleRNNCell": around(lambda: layers.RNN(layers.SimpleRNNCell(4)), *SEQUENCE),
    "SpectralNormalization": around(
        lambda: layers.SpectralNormalization(layers.Dense(3), power_iterations=2), 6
    ),
    "StackedRNNCells": around(
        lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])),
        *SEQUENCE,
    ),
    "StringLookup": of_words(lambda: layers.StringLookup(vocabulary=["tea", "milk"])),
    "StringLookup adapted": of_words(
        lambda: adapted(layers.StringLookup(output_mode="tf_idf"), np.array(WORDS))
    ),
    "TextVectorization": of_words(
        lambda: adapted(layers.TextVectorization(output_sequence_length=4), ["Tea! with milk"]),
        [["tea with milk"], ["Milk, please"]],
    ),
    "TextVectorization ngrams": of_words(
        lambda: adapted(
            layers.TextVectorization(ngrams=2, output_mode="multi_hot"), ["Tea! with milk"]
        ),
        [["tea with milk"], ["Milk, please"]],
    ),
    "TimeDistributed": around(lambda: layers.TimeDistributed(layers.Dense(2)), *SEQUENCE),
}
if keras.backend.backend() == "tensorflow":  # on the others, Keras makes no texts of arrays
    SPECIAL["StringLookup inverted"] = of_ids(
        lambda: layers.StringLookup(vocabulary=["tea", "milk"], invert=True), 3, below=3
    )


def around_a_jax_function() -> tuple[Any, Any]:
    def double(params: Any, inputs: Any) -> Any:
        return inputs * 2

    return model_of(layers.JaxLayer(double, lambda rng, inputs: {}), numbers(6))


def around_a_torch_module() -> tuple[Any, Any]:
    import torch

    layer = layers.TorchModuleWrapper(torch.nn.Linear(6, 3))  # whose shape no model can tell
    layer(numbers(6))
    return layer, numbers(6)


if keras.backend.backend() == "jax":
    SPECIAL["JaxLayer"] = around_a_jax_function
if keras.backend.backend() == "torch":
    SPECIAL["TorchModuleWrapper"] = around_a_torch_module

FAMILY = Family(
    "Keras layers",
    exist,
    cases={
        **{
            name: one(name.partition(" ")[0], shape, options)
            for shape, group in SIMPLE.items()
            for name, options in group.items()
        },
        **SPECIAL,
    },
    refused={
        "FlaxLayer": "it wraps a model of another framework: save that model",
        "JaxLayer": "it wraps a function of another framework: save that, registered",
        "Lambda": "it is code",
        "TFSMLayer": "it reads a SavedModel from a path",
        "TorchModuleWrapper": "it wraps a module of PyTorch by pickling it: save that module",
    },
    left_out={
        "Layer": "abstract",
        "Wrapper": "abstract: it has no call()",
    },
)
