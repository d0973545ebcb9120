#!/usr/bin/env python3
"""The same work as bench_block, and as bench_qllm's round, in PyTorch: plain modules with AdamW as published, and
torch.compile with fused AdamW.

usage: bench_torch.py [what=block-ap|advance|e2e|round] [preset=70b|7b|135m] [compute=bf16] [batch=2] [length=N] [bits=2] [group=64]
       [mode=plain|compiled] [form=merged|factored] [samples=20] [per=16] [expect=FILE] [hidden=N intermediate=N heads=N kv_heads=N head_dim=N]
expect: what bench_block or bench_qllm printed for the same keys; its losses and gradient norms must agree (exit 1 where
they do not). form, of a round: corrections added to the weights, as published, or applied beside them.
Numbers come from the formula of data.h, so both programs work on the same weights and inputs."""
import statistics, sys, time
import torch, torch.nn as nn, torch.nn.functional as F

PRESETS = {"70b": (8192, 28672, 64, 8, 2048), "7b": (4096, 11008, 32, 32, 2048), "135m": (576, 1536, 9, 3, 1024)}
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
BATCHES, STREAM_WEIGHT, STREAM_INPUT, WEIGHT_SIZE, LR = 4, 1, 100, 0.05, 1e-4
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 0.02, 0.03  # relative; bf16 has 8 bits, and both sides round at other places
ROUND_TOLERANCE = 0.1  # of gradients under quantized activations: a rounding elsewhere moves some to the next step

c = dict(what="block-ap", preset="7b", compute="bf16", batch="2", bits="2", group="64", mode="plain", samples="20", per="16", expect="", form="merged", recompute="0", dw="", device="")
if "what=round" in sys.argv:
    c.update(bits="4", group="-1", batch="1", maps="1")
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


RANK, SCALING, ROUND_LR, STREAM_FACTOR, OUTLIER = 4, 0.25, 5e-4, 50, 8.0


def place_plan(n):
    """Of each 64 channels the first two become one, the sixth is split (as in bench_qllm): of each place its first
    channel and weight, then of places with a second one the place and the channel."""
    first, weight, second = torch.arange(n, device=dev), torch.ones(n, device=dev), [0, 0]
    whole = n // 64 * 64 if c["maps"] == "1" else 0
    at = torch.arange(0, whole, 64, device=dev)
    first[at + 1] += 4
    for place in (0, 1, 5):
        weight[at + place] = 0.5
    return first, weight, at, at + 1


class Shape(nn.Module):
    """A site: channels mapped, then rows quantized, with the gradient through the step."""
    def __init__(self, n):
        super().__init__()
        self.names = ("first", "weight", "places", "second")
        for name, value in zip(self.names, place_plan(n)):
            self.register_buffer(name, value)

    def forward(self, x):
        if c["maps"] == "1":
            y = x.index_select(-1, self.first) * self.weight
            x = y.index_add(-1, self.places, (x.index_select(-1, self.second) * 0.5).to(y.dtype)).to(dtype)
        return quantize_rows(x)


def quantize_rows(x):
    f = x.float()
    lo, hi = f.amin(-1, keepdim=True), f.amax(-1, keepdim=True)
    s = (hi - lo) / Q
    z = (-lo / s).clamp(-1e4, 1e4).round().detach()
    s = s.clamp(1e-5, 1e4)
    ratio = f / s
    return (((ste(ratio, ratio.round()) + z).clamp(0, Q) - z) * s).to(dtype)


class LowRankLinear(nn.Module):
    """Frozen rounded weights, behind their site's map where they have one, and a trained correction of rank 4."""
    def __init__(self, w, stream, mapped):
        super().__init__()
        if mapped and c["maps"] == "1":
            first, _, places, second = place_plan(w.shape[1])
            w = w[:, first].index_add(1, places, w[:, second])
        lo, hi = w.amin(1, keepdim=True).clamp(max=0), w.amax(1, keepdim=True).clamp(min=0)
        s = ((hi - lo) / Q).clamp(min=1e-4)
        z = (-lo / s).round().clamp(0, Q)
        self.register_buffer("w_hat", ((((w / s).round() + z).clamp(0, Q) - z) * s).to(dtype))
        self.a = nn.Parameter(uniform((RANK, w.shape[1]), stream, w.shape[1] ** -0.5).to(torch.float32))
        self.b = nn.Parameter(torch.zeros(w.shape[0], RANK, device=dev))

    def forward(self, x):
        if c["form"] == "factored":
            return F.linear(x, self.w_hat) + SCALING * F.linear(F.linear(x, self.a.to(dtype)), self.b.to(dtype))
        return F.linear(x, self.w_hat + SCALING * (self.b.to(dtype) @ self.a.to(dtype)))


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.quantized = kind is LowRankLinear
        more = lambda i, n: (STREAM_FACTOR + i, n != "o") if self.quantized else ()
        self.linears = nn.ModuleDict({n: kind(uniform(SHAPES[n], STREAM_WEIGHT + i, WEIGHT_SIZE), *more(i, n)) for i, n in enumerate(LINEARS)})
        if c["what"] == "round":
            norm = lambda: nn.Parameter(torch.where(torch.arange(H, device=dev) % 128 == 5, OUTLIER, 1.0), requires_grad=self.quantized)
            self.norm1, self.norm2 = norm(), norm()
        if self.quantized:
            self.sites = nn.ModuleList([Shape(H), Shape(H), Shape(I)])
        angle = torch.arange(T, device=dev, dtype=torch.float64)[:, None] / 10000.0 ** (torch.arange(0, D, 2, device=dev, dtype=torch.float64) / D)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def norm(self, x, k):
        f = x.float()
        h = (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-5)).to(dtype)
        return (h * (self.norm1, self.norm2)[k]).to(dtype) if c["what"] == "round" else h

    def site(self, x, k):
        return self.sites[k](x) if self.quantized else x

    def rows(self, x):
        return quantize_rows(x) if self.quantized else x

    def rotate(self, x):
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), -1).to(dtype)

    def forward(self, x):
        l, n = self.linears, self.site(self.norm(x, 0), 0)
        q, k, v = (l[name](n).view(-1, T, heads, D).transpose(1, 2) for name, heads in (("q", NH), ("k", NKV), ("v", NKV)))
        q, k, v = self.rows(self.rotate(q)), self.rows(self.rotate(k)), self.rows(v)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=NH != NKV)
        h = x + l["o"](self.rows(a.transpose(1, 2).reshape(-1, T, NH * D)))
        n = self.site(self.norm(h, 1), 1)
        return h + l["down"](self.site(F.silu(l["gate"](n)) * l["up"](n), 2))


def batches():
    plain = Block(Plain).to(dev)
    for i in range(ROUND_SAMPLES if c["what"] == "round" else BATCHES):
        x = uniform((B if c["what"] != "round" else 1, T, H), STREAM_INPUT + i, 1.0).to(dtype)
        with torch.no_grad():
            y = plain(x)
        pin = lambda t: t.cpu().pin_memory() if dev == "cuda" else t
        yield pin(x), pin(y)


ROUND_SAMPLES, CHECKED_STEPS, TIMED_STEPS = 8, 8, 32  # as in bench_qllm
expected = {line.split()[0]: line.split()[1:] for line in open(c["expect"]) if line.strip()} if c["expect"] else {}
data = list(batches())
block = Block({"block-ap": QuantLinear, "advance": Plain, "e2e": FrozenLinear, "round": LowRankLinear}[c["what"]]).to(dev)
compiled = c["mode"] == "compiled"
model = torch.compile(block) if compiled else block
trained = {"block-ap": LR, "round": ROUND_LR}.get(c["what"])
optimizer = torch.optim.AdamW(block.parameters(), lr=trained, weight_decay=0.0, fused=compiled) if trained else None
losses, gradients = [], []
order = [int(i) for i in expected.get("order", range(ROUND_SAMPLES))]


def inputs(i):
    if c["what"] != "round":
        return (t.to(dev, non_blocking=True) for t in data[i % BATCHES])
    pair = [data[order[(i * B + k) % len(order)]] for k in range(B)]
    return (torch.cat([p[side].to(dev, non_blocking=True) for p in pair]) for side in (0, 1))


def begin_step(i):
    """A round of its own for the checked steps, then rounds of TIMED_STEPS each: the rate falls to 0 within each."""
    if c["what"] != "round":
        return
    at, of = (i, CHECKED_STEPS) if i < CHECKED_STEPS else ((i - CHECKED_STEPS) % TIMED_STEPS, TIMED_STEPS)
    for group in optimizer.param_groups:
        group["lr"] = ROUND_LR * (1 - at / of)


def keep_gradients(i):
    if c["what"] == "block-ap" and i == 0:  # of w, so times what a unit is; only weights inside their range have one
        gradients.extend((l.w.grad / l.s0).norm().item() for l in block.linears.values())
    if c["what"] == "round" and i == CHECKED_STEPS - 1:
        gradients.extend(p.grad.norm().item() for l in block.linears.values() for p in (l.a, l.b))
        gradients.extend(p.grad.norm().item() for p in (block.norm1, block.norm2))


def step(i):
    x, goal = inputs(i)
    if c["what"] == "advance":
        with torch.no_grad():
            return model(x).cpu()
    begin_step(i)
    loss = F.mse_loss(model(x).float(), goal.float())
    block.zero_grad(set_to_none=True)
    loss.backward()
    losses.append(loss.detach())
    if optimizer:
        keep_gradients(i)
        optimizer.step()


wait = torch.cuda.synchronize if dev == "cuda" else lambda: None
times, at = [], 0
if c["what"] == "round":
    PER = TIMED_STEPS
    while at < CHECKED_STEPS:
        step(at)
        at += 1
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
if c["what"] == "round":
    losses = [losses[0], losses[CHECKED_STEPS - 1]]
if losses:
    print("losses", *(f"{l:.6e}" for l in losses))
if gradients:
    print("gradients", *(f"{g:.6e}" for g in gradients))
peak = torch.cuda.max_memory_allocated() / 2 ** 30 if dev == "cuda" else 0
print(f"{c['what']} PyTorch {torch.__version__} {c['mode']}: median {statistics.median(times):.3f} ms, least {min(times):.3f}, most {max(times):.3f}; {peak:.2f} GiB")

if c["expect"]:
    wrong = 0
    of_gradients = ROUND_TOLERANCE if c["what"] == "round" else GRADIENT_TOLERANCE
    for kind, ours, tolerance in (("losses", losses, LOSS_TOLERANCE), ("gradients", gradients, of_gradients)):
        given = list(map(float, expected.get(kind, [])))
        if len(given) < len(ours):
            sys.exit(f"{kind}: the program printed {len(given)}, PyTorch has {len(ours)}")
        for theirs, mine in zip(given, ours):
            if not abs(theirs - mine) <= tolerance * abs(mine):
                wrong += 1
                print(f"{kind}: the program {theirs:.6e}, PyTorch {mine:.6e}: more than {tolerance:.0%} apart")
    print("agrees with the program" if not wrong else f"{wrong} numbers differ")
    sys.exit(wrong > 0)
