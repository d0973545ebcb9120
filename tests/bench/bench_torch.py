#!/usr/bin/env python3
"""The same work as bench_block in PyTorch: plain modules with AdamW as published, and torch.compile with fused AdamW.

usage: bench_torch.py [what=block-ap|advance|e2e] [preset=70b|7b|135m] [compute=bf16] [batch=2] [length=N] [bits=2] [group=64]
       [mode=plain|compiled] [samples=20] [per=16] [expect=FILE] [hidden=N intermediate=N heads=N kv_heads=N head_dim=N]
expect: what bench_block printed for the same keys; its losses and gradient norms must agree (exit 1 where they do not).
Numbers come from the formula of data.h, so both programs work on the same weights and inputs."""
import statistics, sys, time
import torch, torch.nn as nn, torch.nn.functional as F

PRESETS = {"70b": (8192, 28672, 64, 8, 2048), "7b": (4096, 11008, 32, 32, 2048), "135m": (576, 1536, 9, 3, 1024)}
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
BATCHES, STREAM_WEIGHT, STREAM_INPUT, WEIGHT_SIZE, LR = 4, 1, 100, 0.05, 1e-4
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 0.02, 0.03  # relative; bf16 has 8 bits, and both sides round at other places

c = dict(what="block-ap", preset="7b", compute="bf16", batch="2", bits="2", group="64", mode="plain", samples="20", per="16", expect="", recompute="0", dw="", device="")
keys = dict(a.split("=", 1) for a in sys.argv[1:])
c.update(keys)
for name, value in zip(("hidden", "intermediate", "heads", "kv_heads", "length"), PRESETS[c["preset"]]):
    c.setdefault(name, str(value))
H, I, NH, NKV, T, B, BITS, SAMPLES, PER = (int(c[k]) for k in ("hidden", "intermediate", "heads", "kv_heads", "length", "batch", "bits", "samples", "per"))
D, GROUP, Q = int(c.get("head_dim", H // NH)), int(c["group"]), 2 ** BITS - 1
dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[c["compute"]]
dev = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = dict(q=(NH * D, H), k=(NKV * D, H), v=(NKV * D, H), o=(H, NH * D), gate=(I, H), up=(I, H), down=(H, I))


def uniform(shape, stream, size):
    """size (u / 2^23 - 1), u the top 24 bits of splitmix64 at (stream << 40) + i."""
    n, out = torch.Size(shape).numel(), []
    wrap = lambda x: x - (1 << 64) if x >= 1 << 63 else x
    shifted = lambda x, k: (x >> k) & ((1 << (64 - k)) - 1)
    for at in range(0, n, 1 << 24):
        x = torch.arange(at, min(n, at + (1 << 24)), device=dev) + wrap((stream << 40) + 0x9E3779B97F4A7C15)
        x = (x ^ shifted(x, 30)) * wrap(0xBF58476D1CE4E5B9)
        x = (x ^ shifted(x, 27)) * wrap(0x94D049BB133111EB)
        out.append(size * (shifted(x ^ shifted(x, 31), 40).float() / 8388608.0 - 1.0))
    return torch.cat(out).view(shape)


ste = lambda x, value: x + (value - x).detach()


class QuantLinear(nn.Module):
    """Trained variables in units of the first step: w / s0, s / s0 and z; min-max start."""
    def __init__(self, w):
        super().__init__()
        x = w.reshape(-1, GROUP)
        lo, hi = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
        s = ((hi - lo) / Q).clamp(min=1e-4)
        self.register_buffer("s0", s)
        self.w, self.s, self.z = nn.Parameter(x / s), nn.Parameter(torch.ones_like(s)), nn.Parameter((-lo / s).round().clamp(0, Q))
        self.shape = w.shape

    def weight(self):
        s = ste(self.s * self.s0, (self.s * self.s0).clamp(1e-4, 1e4))
        z = ste(self.z, self.z.round().clamp(0, Q))
        ratio = self.w * self.s0 / s
        code = (ste(ratio, ratio.round()) + z).clamp(0, Q)
        return ((code - z) * s).reshape(self.shape).to(dtype)

    def forward(self, x):
        return F.linear(x, self.weight())


class FrozenLinear(nn.Module):
    """Codes and zero points as bytes, trained steps."""
    def __init__(self, w):
        super().__init__()
        x = w.reshape(-1, GROUP)
        lo, hi = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
        s = ((hi - lo) / Q).clamp(min=1e-4)
        z = (-lo / s).round().clamp(0, Q)
        s = s.clamp(min=2.0 ** -14).half().float()
        self.register_buffer("codes", ((x / s).round() + z).clamp(0, Q).to(torch.uint8))
        self.register_buffer("z", z.to(torch.uint8))
        self.s, self.shape = nn.Parameter(s), w.shape

    def forward(self, x):
        return F.linear(x, ((self.codes.float() - self.z.float()) * self.s).reshape(self.shape).to(dtype))


class Plain(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.register_buffer("w", w.to(dtype))

    def forward(self, x):
        return F.linear(x, self.w)


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linears = nn.ModuleDict({n: kind(uniform(SHAPES[n], STREAM_WEIGHT + i, WEIGHT_SIZE)) for i, n in enumerate(LINEARS)})
        angle = torch.arange(T, device=dev, dtype=torch.float64)[:, None] / 10000.0 ** (torch.arange(0, D, 2, device=dev, dtype=torch.float64) / D)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def norm(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-5)).to(dtype)

    def rotate(self, x):
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), -1).to(dtype)

    def forward(self, x):
        l, n = self.linears, self.norm(x)
        q, k, v = (l[name](n).view(-1, T, heads, D).transpose(1, 2) for name, heads in (("q", NH), ("k", NKV), ("v", NKV)))
        a = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True, enable_gqa=NH != NKV)
        h = x + l["o"](a.transpose(1, 2).reshape(-1, T, NH * D))
        n = self.norm(h)
        return h + l["down"](F.silu(l["gate"](n)) * l["up"](n))


def batches():
    plain = Block(Plain).to(dev)
    for i in range(BATCHES):
        x = uniform((B, T, H), STREAM_INPUT + i, 1.0).to(dtype)
        with torch.no_grad():
            y = plain(x)
        pin = lambda t: t.cpu().pin_memory() if dev == "cuda" else t
        yield pin(x), pin(y)


data = list(batches())
block = Block({"block-ap": QuantLinear, "advance": Plain, "e2e": FrozenLinear}[c["what"]]).to(dev)
compiled = c["mode"] == "compiled"
model = torch.compile(block) if compiled else block
optimizer = torch.optim.AdamW(block.parameters(), lr=LR, weight_decay=0.0, fused=compiled) if c["what"] == "block-ap" else None
losses, gradients = [], []


def step(i):
    x, goal = (t.to(dev, non_blocking=True) for t in data[i % BATCHES])
    if c["what"] == "advance":
        with torch.no_grad():
            return model(x).cpu()
    loss = F.mse_loss(model(x).float(), goal.float())
    block.zero_grad(set_to_none=True)
    loss.backward()
    losses.append(loss.detach())
    if optimizer:
        if i == 0:  # of w, so times what a unit is; only weights inside their range have one
            gradients.extend((l.w.grad / l.s0).norm().item() for l in block.linears.values())
        optimizer.step()


wait = torch.cuda.synchronize if dev == "cuda" else lambda: None
times, at = [], 0
for sample in range(-1, SAMPLES):
    wait()
    began = time.perf_counter()
    for _ in range(PER):
        step(at)
        at += 1
    wait()
    if sample >= 0:
        times.append((time.perf_counter() - began) / PER * 1e3)

losses = [l.item() for l in losses[:8]]
if losses:
    print("losses", *(f"{l:.6e}" for l in losses))
if gradients:
    print("gradients", *(f"{g:.6e}" for g in gradients))
peak = torch.cuda.max_memory_allocated() / 2 ** 30 if dev == "cuda" else 0
print(f"{c['what']} PyTorch {torch.__version__} {c['mode']}: median {statistics.median(times):.3f} ms, least {min(times):.3f}, most {max(times):.3f}; {peak:.2f} GiB")

if c["expect"]:
    wrong = 0
    for line in open(c["expect"]):
        kind, *values = line.split()
        known = {"losses": (losses, LOSS_TOLERANCE), "gradients": (gradients, GRADIENT_TOLERANCE)}
        if kind not in known:
            continue
        ours, tolerance = known[kind]
        for theirs, mine in zip(map(float, values), ours):
            if not abs(theirs - mine) <= tolerance * abs(mine):
                wrong += 1
                print(f"{kind}: bench_block {theirs:.6e}, PyTorch {mine:.6e}: more than {tolerance:.0%} apart")
    print("agrees with bench_block" if not wrong else f"{wrong} numbers differ")
    sys.exit(wrong > 0)
