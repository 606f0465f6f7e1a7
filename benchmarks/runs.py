"""Training runs, for what depends on how numbers change while a network learns.

    python benchmarks/runs.py --out /tmp/runs
    python benchmarks/runs.py --out /tmp/runs --only dense bf16

Each run is a folder of one plain `NNNN.safetensors` per checkpoint; NNNN is the step. Leaves are
`w/...` (weights), and `m/...` and `v/...` (moments of Adam) of what is trained.

    dense      11 M parameters, a transformer over bytes, fp32, from scratch: 20 checkpoints
    bf16       its weights as bfloat16, as in training with fp32 masters
    finetune   goes on from the last of `dense` with a small rate, on other text
    frozen     the same, only the last norm and the head learn: 1 % of the parameters
    lora       the same, only adapters of rank 4 learn
    embedding  200,000 x 64 fp32, sparse SGD: about 1 % of the rows change between checkpoints

The text is the source of Python's standard library: its tests are what `finetune` and its
followers learn, all else is for `dense`. The same seed gives the same run on the same machine.
15 minutes on two cores, 5.5 GB of files.
"""

from __future__ import annotations

import argparse
import math
import re
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 384, 6, 6, 64, 8
STEPS, EVERY = 1000, 50  # of `dense`
TUNING_STEPS, TUNING_EVERY, TUNING_RATE = 200, 20, 2e-5
LORA_RATE, LORA_RANK = 2e-4, 4
ROWS, COLUMNS, EMBEDDING_SAVES, PAIRS = 200_000, 64, 10, 4096
BF16 = "bf16"

Tensors = dict[str, Tensor]


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm (as GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        self.apply(self.initialize)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class Adapted(nn.Module):
    """A frozen linear layer, and a product of two thin matrices that learns (LoRA)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.empty(LORA_RANK, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, LORA_RANK))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2 * (x @ self.a.T @ self.b.T)  # type: ignore[no-any-return]


def source_text(tests: bool) -> bytes:
    """The standard library's sources in a fixed order: its tests, or all but its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.rst")]):
        parts = path.relative_to(root).parts
        if not {"site-packages", "dist-packages"} & set(parts):
            is_test = bool({"test", "tests", "idle_test"} & set(parts))
            if is_test == tests:
                found.append(path.read_bytes())
    # Some distributions leave the tests out: then there is one text only, in two halves.
    if not found or sum(map(len, found)) < 1 << 20:
        whole = source_text(not tests)
        half = len(whole) // 2
        return whole[half:] if tests else whole[:half]
    return b"\n".join(found)


def batches(text: bytes, seed: int) -> Iterator[Tensor]:
    """Windows of the text at random places, one byte longer than the context."""
    data = torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64))
    chance = torch.Generator().manual_seed(seed)
    window = torch.arange(CONTEXT + 1)
    while True:
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH, 1), generator=chance)
        yield data[starts + window]


def cosine(step: int, steps: int, warmup: int) -> float:
    """The rate at this step, relative to the highest: a ramp, then half a cosine down to 10 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / (steps - warmup))


def adam(model: nn.Module, rate: float, decay: float, beta2: float = 0.999) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay, betas=(0.9, beta2))


def checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    found: Tensors = {}
    for name, parameter in model.named_parameters():
        found[f"w/{name}"] = parameter.detach()
        if state := optimizer.state.get(parameter):
            found[f"m/{name}"], found[f"v/{name}"] = state["exp_avg"], state["exp_avg_sq"]
    return found


def write(folder: Path, step: int, tensors: Tensors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{step:04d}.safetensors")


class Trainer:
    """Trains what learns of a model, and writes a checkpoint every so many steps."""

    def __init__(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer

    def train(self, text: bytes, seed: int, steps: int, every: int, warmup: int) -> None:
        factor = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: cosine(step, steps, warmup)
        )
        began, losses = time.perf_counter(), []
        for step, batch in zip(range(1, steps + 1), batches(text, seed), strict=False):
            losses.append(self.step(batch))
            factor.step()
            if step % every == 0:
                write(self.folder, step, checkpoint(self.model, self.optimizer))
                seconds = time.perf_counter() - began
                loss = sum(losses[-every:]) / every
                print(f"{self.folder.name} {step}: loss {loss:.3f}, {seconds:.0f} s", flush=True)

    def step(self, batch: Tensor) -> float:
        logits = self.model(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())


def dense(out: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = Transformer()
    # 0.95 is what language models are trained with from scratch; tuning keeps Adam's own 0.999.
    trainer = Trainer(out / "dense", model, adam(model, 1e-3, 0.1, beta2=0.95))
    trainer.train(source_text(tests=False), seed, STEPS, EVERY, warmup=50)


def bf16(out: Path, seed: int) -> None:
    for path in sorted((out / "dense").glob("*.safetensors")):
        weights = {k: v.bfloat16() for k, v in load_file(path).items() if k.startswith("w/")}
        write(out / BF16, int(path.stem), weights)


def trained(out: Path) -> tuple[Transformer, Tensors]:
    """The model as `dense` left it, and its last checkpoint."""
    tensors = load_file(out / "dense" / f"{STEPS:04d}.safetensors")
    model = Transformer()
    model.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w/")})
    return model, tensors


def tune(out: Path, name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    trainer = Trainer(out / name, model, optimizer)
    trainer.train(source_text(tests=True), 1, TUNING_STEPS, TUNING_EVERY, warmup=10)


def finetune(out: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model, tensors = trained(out)
    optimizer = adam(model, TUNING_RATE, 0.01)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(STEPS)),
            "exp_avg": tensors[f"m/{name}"].clone(),
            "exp_avg_sq": tensors[f"v/{name}"].clone(),
        }
    tune(out, "finetune", model, optimizer)


def frozen(out: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model, _ = trained(out)
    model.requires_grad_(False)
    model.norm.requires_grad_(True)
    model.head.requires_grad_(True)
    tune(out, "frozen", model, adam(model, 1e-4, 0.01))


def lora(out: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model, _ = trained(out)
    model.requires_grad_(False)
    for block in model.blocks:
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, Adapted(getattr(block, name)))
    tune(out, "lora", model, adam(model, LORA_RATE, 0.0))


def embedding(out: Path, seed: int) -> None:
    """Words of a text, hashed to rows; a word and the next one are drawn to each other."""
    torch.manual_seed(seed)
    table = nn.Embedding(ROWS, COLUMNS, sparse=True)
    nn.init.normal_(table.weight, std=COLUMNS**-0.5)
    optimizer = torch.optim.SGD(table.parameters(), lr=50.0)
    words = re.findall(rb"\w+", source_text(tests=False))
    rows = torch.tensor([zlib.crc32(word) % ROWS for word in words])
    for step, place in enumerate(range(0, EMBEDDING_SAVES * PAIRS * 3, PAIRS * 3)):
        changed = pair_steps(table, optimizer, rows[place : place + PAIRS * 3 + 1])
        write(out / "embedding", step + 1, {"w/embedding": table.weight.detach()})
        print(f"embedding {step + 1}: {changed / ROWS:.2%} of the rows changed", flush=True)


def pair_steps(table: nn.Embedding, optimizer: torch.optim.Optimizer, rows: Tensor) -> int:
    """Learn these words in batches; how many rows were touched."""
    left, right = rows[:-1], rows[1:]
    for x, y in zip(torch.split(left, 256), torch.split(right, 256), strict=True):
        a, b = table(x), table(y)
        alike, unlike = (a * b).sum(1), (a * b.roll(1, 0)).sum(1)
        loss = -(functional.logsigmoid(alike) + functional.logsigmoid(-unlike)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return len(torch.unique(rows))


# In an order in which each finds what it goes on from.
RUNS: dict[str, Callable[[Path, int], None]] = {
    "dense": dense,
    BF16: bf16,
    "finetune": finetune,
    "frozen": frozen,
    "lora": lora,
    "embedding": embedding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, help="a folder; each run is a folder in it")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, make in RUNS.items():
        if name in options.only:
            make(Path(options.out), options.seed)


if __name__ == "__main__":
    main()
