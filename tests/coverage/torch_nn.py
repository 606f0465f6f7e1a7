"""Every class of `torch.nn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.coverage.family import Family

Made = tuple[Any, Any]


def exist() -> list[str]:
    return [
        name
        for name, cls in vars(nn).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module)
    ]


def x(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


def chosen(*shape: int, below: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape) % below


V, L, S, D = (4, 8), (2, 4, 8), (2, 4, 8, 8), (2, 4, 4, 4, 4)
SHAPES = {1: L, 2: S, 3: D}
CASES: dict[str, Callable[[], Made]] = {}


def case(name: str, make: Callable[[], Any], *inputs: Any) -> None:
    """A case whose model is called with the inputs; with none, it is not called."""
    given = inputs[0] if len(inputs) == 1 else inputs or None

    def made() -> Made:
        torch.manual_seed(0)
        return make(), given

    CASES[name] = made


def variants(name: str, shape: tuple[int, ...], *calls: str) -> None:
    """The class called with what each text has between the brackets."""
    for index, call in enumerate(calls):
        label = name if index == 0 else f"{name} {call.replace('/', '')}"
        expression = f"nn.{name}({call})"
        case(label, lambda e=expression: eval(e, {"nn": nn, "torch": torch}), x(*shape))


# Activations: what is called with one tensor of any shape.
for _name in (
    *("Hardsigmoid", "Hardswish", "Identity", "LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU"),
    *("SiLU", "Sigmoid", "Softsign", "Tanh", "Tanhshrink"),
):
    variants(_name, V, "")
variants("CELU", V, "", "0.5, inplace=True")
variants("ELU", V, "", "alpha=0.5")
variants("GELU", V, "", "'tanh'")
variants("GLU", V, "", "dim=0")
variants("Hardshrink", V, "", "0.1")
variants("Hardtanh", V, "", "-2, 2")
variants("LeakyReLU", V, "", "0.3, True")
variants("PReLU", V, "", "8, init=0.5")
variants("RReLU", V, "", "0.2, 0.3")
variants("Softplus", V, "", "beta=2, threshold=3")
variants("Softshrink", V, "", "0.1")
variants("Threshold", V, "0.1, 20")
variants("Softmax", V, "dim=-1", "")
variants("Softmin", V, "dim=-1", "")
variants("LogSoftmax", V, "dim=-1", "")
variants("Softmax2d", S, "")
for _name in ["Dropout", "AlphaDropout", "FeatureAlphaDropout"]:
    variants(_name, S, "", "0.3, inplace=True")

# Linear layers, embeddings, shapes.
variants("Linear", V, "8, 2", "8, 2, bias=False", "8, 2, dtype=torch.float32")
case("Bilinear", lambda: nn.Bilinear(8, 4, 2), x(3, 8), x(3, 4))
case("Bilinear bias=False", lambda: nn.Bilinear(8, 4, 2, bias=False), x(3, 8), x(3, 4))
case("Embedding", lambda: nn.Embedding(10, 4), chosen(2, 3, below=10))
case(
    "Embedding options",
    lambda: nn.Embedding(10, 4, padding_idx=-1, max_norm=1.0, scale_grad_by_freq=True),
    chosen(2, 3, below=10),
)
case("Embedding from_pretrained", lambda: nn.Embedding.from_pretrained(x(5, 2)), chosen(3, below=5))
case("EmbeddingBag", lambda: nn.EmbeddingBag(10, 4), chosen(2, 3, below=10))
case(
    "EmbeddingBag options",
    lambda: nn.EmbeddingBag(10, 4, mode="max", padding_idx=0, include_last_offset=True),
    chosen(4, below=10),
    torch.tensor([0, 2, 4]),
)
variants("Flatten", S, "", "2, 3")
variants("Unflatten", V, "1, (2, 4)", "-1, torch.Size([4, 2])")
variants("Fold", (1, 8, 12), "(4, 5), (2, 2)")
variants("Unfold", S, "(2, 3)", "2, dilation=2, padding=1, stride=2")
variants("PixelShuffle", S, "2")
variants("PixelUnshuffle", S, "2")
variants("ChannelShuffle", S, "2")
variants("Upsample", S, "scale_factor=2", "size=(5, 7), mode='bilinear', align_corners=True")
variants("Upsample", S, "scale_factor=2", "scale_factor=(1.5, 2), recompute_scale_factor=True")
variants("UpsamplingBilinear2d", S, "scale_factor=2", "size=(5, 7)")
variants("UpsamplingNearest2d", S, "scale_factor=2", "size=5")
case("CosineSimilarity", lambda: nn.CosineSimilarity(dim=0, eps=1e-6), x(*V), x(*V) + 1)
case("PairwiseDistance", lambda: nn.PairwiseDistance(1.0, keepdim=True), x(*V), x(*V) + 1)

# What there is for one, two and three dimensions.
for _n, _shape in SHAPES.items():
    _c = _shape[1]
    variants(
        f"Conv{_n}d", _shape, f"{_c}, 2, 3", f"{_c}, 4, 3, 2, 1, groups=2, bias=False",
        f"{_c}, 2, 3, padding='same', padding_mode='circular'",
        f"{_c}, 2, 3, padding=1, padding_mode='reflect', dilation=2",
    )  # fmt: skip
    variants(
        f"ConvTranspose{_n}d", _shape, f"{_c}, 2, 3",
        f"{_c}, 4, 3, 2, 1, output_padding=1, groups=2, bias=False",
    )  # fmt: skip
    variants(
        f"BatchNorm{_n}d", _shape, f"{_c}", f"{_c}, affine=False",
        f"{_c}, track_running_stats=False", f"{_c}, eps=1e-3, momentum=None",
    )  # fmt: skip
    variants(f"InstanceNorm{_n}d", _shape, f"{_c}", f"{_c}, affine=True, track_running_stats=True")
    variants(f"MaxPool{_n}d", _shape, "2", "3, stride=1, padding=1, return_indices=True")
    variants(f"AvgPool{_n}d", _shape, "2", "3, 1, 1, ceil_mode=True, count_include_pad=False")
    variants(f"LPPool{_n}d", _shape, "2, 2", "1.5, 2, stride=1, ceil_mode=True")
    variants(f"AdaptiveAvgPool{_n}d", _shape, "2", *(["(None, 2)"] if _n == 2 else []))
    variants(f"AdaptiveMaxPool{_n}d", _shape, "2", "1, return_indices=True")
    variants(f"Dropout{_n}d", _shape, "", "0.2, True")
    _pads = ", ".join("1" * 2 * _n)
    for _kind in ["CircularPad", "ReflectionPad", "ReplicationPad", "ZeroPad"]:
        variants(f"{_kind}{_n}d", _shape, "1", f"({_pads})")
    variants(f"ConstantPad{_n}d", _shape, "1, 0.5", f"({_pads}), -1")
    _pooled, _where = getattr(functional, f"max_pool{_n}d")(x(*_shape), 2, return_indices=True)
    case(f"MaxUnpool{_n}d", lambda n=_n: getattr(nn, f"MaxUnpool{n}d")(2), _pooled, _where)
for _n in (2, 3):
    # The places are drawn anew each time unless they are given.
    case(
        f"FractionalMaxPool{_n}d",
        lambda n=_n: getattr(nn, f"FractionalMaxPool{n}d")(
            2, output_ratio=0.5, _random_samples=torch.rand(2, SHAPES[n][1], n)
        ),
        x(*SHAPES[_n]),
    )
    case(
        f"FractionalMaxPool{_n}d drawn",
        lambda n=_n: getattr(nn, f"FractionalMaxPool{n}d")(2, output_size=2, return_indices=True),
    )

# Norms.
variants("LayerNorm", L, "8", "(4, 8), elementwise_affine=False", "8, bias=False, eps=1e-3")
variants("RMSNorm", L, "8", "(4, 8), eps=1e-3, elementwise_affine=False")
variants("GroupNorm", S, "2, 4", "4, 4, affine=False, eps=1e-3")
variants("LocalResponseNorm", S, "2", "3, alpha=0.1, beta=0.5, k=2.0")
variants("CrossMapLRN2d", S, "2", "3, 0.1, 0.5, 2")
variants("SyncBatchNorm", S, "4", "4, affine=False, momentum=0.2")

# Recurrent layers.
for _name in ["RNN", "LSTM", "GRU"]:
    variants(
        _name, L, "8, 5", "8, 5, 2, bidirectional=True, batch_first=True, dropout=0.1",
        "8, 5, bias=False",
    )  # fmt: skip
    variants(f"{_name}Cell", V, "8, 5", "8, 5, bias=False")
case("RNN relu", lambda: nn.RNN(8, 5, nonlinearity="relu"), x(*L))
case("RNNCell relu", lambda: nn.RNNCell(8, 5, nonlinearity="relu"), x(*V))
case("LSTM proj_size", lambda: nn.LSTM(8, 5, 2, proj_size=3, bidirectional=True), x(*L))
case("RNNBase", lambda: nn.RNNBase("GRU", 8, 5, 2))
case("RNNBase projection", lambda: nn.RNNBase("LSTM", 8, 5, proj_size=2))
case("RNNCellBase", lambda: nn.RNNCellBase(8, 5, True, 3))
case("RNNCellBase without bias", lambda: nn.RNNCellBase(8, 5, False, 4))

# Attention and transformers.
case("MultiheadAttention", lambda: nn.MultiheadAttention(8, 2), x(*L), x(*L), x(*L))
case(
    "MultiheadAttention options",
    lambda: nn.MultiheadAttention(
        8, 2, 0.1, bias=False, add_bias_kv=True, add_zero_attn=True, kdim=4, vdim=2,
        batch_first=True,
    ),
    x(*L), x(2, 3, 4), x(2, 3, 2),
)  # fmt: skip
TRANSFORMER = {
    "": {},
    " batch_first norm_first": {"batch_first": True, "norm_first": True, "bias": False},
    " activation by name": {"activation": "gelu", "layer_norm_eps": 1e-3, "dropout": 0.3},
    " activation as function": {"activation": functional.silu, "batch_first": True},
    " activation as builtin": {"activation": torch.tanh},
    " activation as module": {"activation": nn.GELU("tanh"), "batch_first": True},
}
for _label, _options in TRANSFORMER.items():
    case(
        f"TransformerEncoderLayer{_label}",
        lambda o=_options: nn.TransformerEncoderLayer(8, 2, 16, **o),
        x(*L),
    )
    case(
        f"TransformerDecoderLayer{_label}",
        lambda o=_options: nn.TransformerDecoderLayer(8, 2, 16, **o),
        x(*L), x(*L) + 1,
    )  # fmt: skip
    case(
        f"TransformerEncoder{_label}",
        lambda o=_options: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, **o), 2, nn.LayerNorm(8)
        ),
        x(*L),
    )
    case(
        f"TransformerDecoder{_label}",
        lambda o=_options: nn.TransformerDecoder(
            nn.TransformerDecoderLayer(8, 2, 16, **o), 2, nn.LayerNorm(8)
        ),
        x(*L), x(*L) + 1,
    )  # fmt: skip
    case(
        f"Transformer{_label}",
        lambda o=_options: nn.Transformer(8, 2, 1, 2, 16, **o),
        x(*L), x(*L) + 1,
    )  # fmt: skip


def uneven_encoder() -> nn.Module:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    model.layers[1] = nn.TransformerEncoderLayer(8, 4, 12, norm_first=True, batch_first=True)
    model.layers[2].dropout1.p = 0.7
    model.layers[0].linear1 = parametrizations.weight_norm(model.layers[0].linear1)
    return model


case("TransformerEncoder of different layers", uneven_encoder, x(*L))
case(
    "Transformer of ones own parts",
    lambda: nn.Transformer(
        8, 2,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 12), 1),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 1, 10), 2),
    ),
    x(*L), x(*L) + 1,
)  # fmt: skip

# Losses.
PROBABLE, ZERO_ONE, SIGN = x(*V).sigmoid(), chosen(4, 8, below=2).float(), x(*V).sign()
LOSSES = {
    "L1Loss": ((x(*V), x(*V) + 1), "reduction='sum'"),
    "MSELoss": ((x(*V), x(*V) + 1), "reduction='none'"),
    "SmoothL1Loss": ((x(*V), x(*V) + 1), "beta=0.3"),
    "HuberLoss": ((x(*V), x(*V) + 1), "delta=0.3"),
    "KLDivLoss": ((x(*V), PROBABLE), "reduction='batchmean', log_target=True"),
    "PoissonNLLLoss": ((x(*V), ZERO_ONE), "log_input=False, full=True, eps=1e-6"),
    "GaussianNLLLoss": ((x(*V), x(*V) + 1, PROBABLE), "full=True, eps=1e-3"),
    "SoftMarginLoss": ((x(*V), SIGN), "reduction='sum'"),
    "HingeEmbeddingLoss": ((x(*V), SIGN), "margin=0.5"),
    "CosineEmbeddingLoss": ((x(*V), x(*V) + 1, SIGN[:, 0]), "margin=0.5"),
    "MarginRankingLoss": ((x(8), x(8) + 1, SIGN[0]), "margin=0.5"),
    "MultiLabelMarginLoss": ((x(*V), chosen(*V, below=8)), "reduction='sum'"),
    "TripletMarginLoss": ((x(*V), x(*V) + 1, x(*V).flip(0)), "margin=0.5, p=1, swap=True"),
    "CTCLoss": (
        (
            x(6, 2, 5).log_softmax(-1), chosen(2, 3, below=4) + 1, torch.tensor([6, 6]),
            torch.tensor([3, 2]),
        ),
        "blank=0, zero_infinity=True",
    ),
    "BCELoss": ((PROBABLE, ZERO_ONE), "weight=torch.rand(8)"),
    "BCEWithLogitsLoss": (
        (x(*V), ZERO_ONE), "weight=torch.rand(8), pos_weight=torch.rand(4, 8)"
    ),
    "CrossEntropyLoss": (
        (x(*V), chosen(4, below=8)),
        "weight=torch.rand(8), ignore_index=1, label_smoothing=0.1",
    ),
    "NLLLoss": ((x(*V), chosen(4, below=8)), "weight=torch.rand(8), ignore_index=1"),
    "NLLLoss2d": ((x(*S), chosen(2, 8, 8, below=4)), "weight=torch.rand(4)"),
    "MultiLabelSoftMarginLoss": ((x(*V), ZERO_ONE), "weight=torch.rand(8)"),
    "MultiMarginLoss": ((x(*V), chosen(4, below=8)), "p=2, margin=0.5, weight=torch.rand(8)"),
}  # fmt: skip
for _name, (_inputs, _options) in LOSSES.items():
    for _call in ("", _options):
        case(
            f"{_name} {_call}".strip(),
            lambda e=f"nn.{_name}({_call})": eval(e, {"nn": nn, "torch": torch}),
            *_inputs,
        )
TRIPLET = (x(*V), x(*V) + 1, x(*V).flip(0))
case("TripletMarginWithDistanceLoss", nn.TripletMarginWithDistanceLoss, *TRIPLET)
case(
    "TripletMarginWithDistanceLoss function",
    lambda: nn.TripletMarginWithDistanceLoss(
        distance_function=functional.pairwise_distance, margin=0.5, swap=True
    ),
    *TRIPLET,
)
case(
    "AdaptiveLogSoftmaxWithLoss",
    lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], 2.0, head_bias=True),
    x(4, 8), chosen(4, below=20),
)  # fmt: skip
if hasattr(nn, "LinearCrossEntropyLoss"):
    case(
        "LinearCrossEntropyLoss",
        lambda: nn.LinearCrossEntropyLoss(8, 5, bias=True, label_smoothing=0.1),
        x(4, 8), chosen(4, below=5),
    )  # fmt: skip
    case(
        "LinearCrossEntropyLoss weight",
        lambda: nn.LinearCrossEntropyLoss(8, 5, weight=torch.rand(5), ignore_index=1),
        x(4, 8), chosen(4, below=5),
    )  # fmt: skip

# Containers.
case("Sequential", lambda: nn.Sequential(nn.Linear(8, 4), nn.Sequential(), nn.ReLU()), x(*V))
case("ModuleList", lambda: nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.ReLU()])]))
case("ModuleDict", lambda: nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.ModuleDict()}))
case("ParameterList", lambda: nn.ParameterList([nn.Parameter(x(2)), x(3, 1), 5, "text"]))
case(
    "ParameterList nested",
    lambda: nn.ParameterList([nn.ParameterList([x(2)]), nn.ParameterDict({"a": x(3)})]),
)
case("ParameterDict", lambda: nn.ParameterDict({"b": x(2), "a": nn.Parameter(x(3, 1)), "n": 1.5}))
case("Container", lambda: nn.Container(a=nn.Linear(2, 2), b=nn.ReLU()))


def bare() -> nn.Module:
    model = nn.Module()
    model.a = nn.Module()
    model.a.layer = nn.Linear(2, 2)
    return model


case("Module", bare)
case("DataParallel", lambda: nn.DataParallel(nn.Linear(8, 2)), x(*V))


# Lazy ones, which become ordinary when they first run.
def lazy(name: str, shape: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    def make() -> nn.Module:
        model = getattr(nn, name)(*arguments, **options)
        model(x(*shape))
        return model

    case(f"{name} {options or ''}".strip(), make, x(*shape))


lazy("LazyLinear", V, 3)
lazy("LazyLinear", V, 3, bias=False)
for _n, _shape in SHAPES.items():
    lazy(f"LazyConv{_n}d", _shape, 2, 3, padding=1)
    lazy(f"LazyConvTranspose{_n}d", _shape, 2, 3)
    lazy(f"LazyBatchNorm{_n}d", _shape)
    lazy(f"LazyInstanceNorm{_n}d", _shape, affine=True)

# Parametrised ones.
case("Linear weight_norm", lambda: parametrizations.weight_norm(nn.Linear(8, 8)), x(*V))
case("Conv2d spectral_norm", lambda: parametrizations.spectral_norm(nn.Conv2d(4, 2, 3)), x(*S))
for _map in ("matrix_exp", "cayley", "householder"):
    case(
        f"Linear orthogonal {_map}",
        lambda m=_map: parametrizations.orthogonal(nn.Linear(8, 4), orthogonal_map=m),
        x(*V),
    )

FAMILY = Family("torch.nn", exist, CASES)
