#!/usr/bin/env python3
"""Golden files: tiny random models with what PyTorch makes of them, and tokenizers with what Hugging Face's library makes of texts.

usage: make_golden.py [models] [tokenizers] [gguf]     (all without arguments; writes beside itself)
Needs torch, transformers, tokenizers, safetensors, numpy, gguf. The committed files were made with torch 2.13, transformers 5.17, tokenizers 0.23.3, gguf 0.19.0.

models/NAME/            a Hugging Face directory: config.json, model.safetensors
models/NAME/golden/     model.safetensors, all computed in f64 from the stored weights and rounded to f32:
    input_ids (2, 17) I32     logits (2, 17, V)     loss (1): mean cross-entropy of token t+1 given the tokens up to t, over 2 x 16 positions
    hidden.B (2, 17, H)       the input of block B; hidden.N is the last block's output, before the final norm
    dhidden.B                 the gradient of the loss with respect to hidden.B
    grad.PARAMETER            its gradient with respect to a parameter (only models with GRADIENTS); a tied head's is in the embedding's
tokenizers/texts.json   {"texts": [...], "invalid": [hex of bytes that are not UTF-8]}
tokenizers/splits.json  the pieces that pre-tokenizers alone make of texts
tokenizers/stories260K.json   {"texts", "ids"} of the tokenizer of that model, which is not among these files (only where it is found)
gguf/blocks/            model.safetensors: NAME.raw U8: random blocks of a type, NAME.values F32: what the gguf package makes of them (Q2_0, which it does not know: its formula)
gguf/NAME.gguf          a tiny random model in a mix of types, gguf/NAME/model.safetensors: the tensors that transformers loads from it, in f32
gguf/TOKENIZER.gguf     only the keys of a tokenizer; its ids are tokenizers/TOKENIZER's, or gguf/TOKENIZER.json's ("qwen", whose added tokens are not normalized)
tokenizers/NAME/        tokenizer.json, or vocab.json + merges.txt, and golden.json: {"size", "prefix", "ids": one list a text, "invalid": likewise}
"""
import json, math, random, shutil, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "data"
KJV = HERE.parent / "data" / "text" / "kjv" / "train.txt"

# --- models ---------------------------------------------------------------------------------------

MODELS = {
    # name: (class, weight type, config)
    "llama-gqa": ("Llama", "float16", dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=96,
        max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False)),
    "llama-biases": ("Llama", "bfloat16", dict(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, vocab_size=80,
        max_position_embeddings=256, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64))),
    "llama-linear": ("Llama", "float32", dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=64,
        max_position_embeddings=64, tie_word_embeddings=False, rope_parameters=dict(rope_type="linear", rope_theta=5000.0, factor=2.5))),
    "opt": ("OPT", "float16", dict(
        hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=96, max_position_embeddings=40,
        word_embed_proj_dim=32)),
    "opt-bare": ("OPT", "float32", dict(
        hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=3, vocab_size=64, max_position_embeddings=24,
        word_embed_proj_dim=24, enable_bias=False)),
    "mistral": ("Mistral", "bfloat16", dict(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=64,
        max_position_embeddings=64, sliding_window=5)),
    "qwen2": ("Qwen2", "bfloat16", dict(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64,
        max_position_embeddings=64, tie_word_embeddings=True, use_sliding_window=True, sliding_window=7, max_window_layers=0,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "qwen3": ("Qwen3", "bfloat16", dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=64,
        max_position_embeddings=64, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1e6))),
}
GRADIENTS = ("llama-gqa", "opt", "mistral", "qwen3")
OLD_LAYOUT = ("llama-biases", "opt-bare", "mistral")  # config.json as transformers 4.x wrote it
BARE_NAMES = ("opt-bare",)  # tensor names without "model."


def exact_rope(config):
    """cos and sin in f64, instead of the f32 that the library uses whatever the model's type is."""
    import torch
    p, d = config.rope_parameters, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    f = p["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    if p["rope_type"] == "linear":
        f = f / p["factor"]
    elif p["rope_type"] == "llama3":
        low, high, length = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
        w = 2 * math.pi / f
        s = (length / w - low) / (high - low)
        f = torch.where(w < length / high, f, torch.where(w > length / low, f / p["factor"], (1 - s) * f / p["factor"] + s * f))
    else:
        assert p["rope_type"] == "default"

    def forward(self, x, position_ids, *_, **__):
        assert torch.allclose(self.inv_freq.double(), f, rtol=1e-6), "rope frequencies"
        angle = position_ids[:, :, None].double() * f
        return torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    return forward


def exact_norm(self, x):
    import torch
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def randomize(model, generator):
    import torch
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if p.dim() == 1:
            p.data = 0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            p.data = noise * (0.6 if "embed" in name else 1.2 / math.sqrt(p.shape[1]))


def run(model, blocks, ids):
    """Logits, loss, the inputs of the blocks and the output of the last, with gradients kept."""
    import torch.nn.functional as F
    hidden = []

    def before(module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        x.retain_grad()
        hidden.append(x)

    def after(module, args, output):
        x = output[0] if isinstance(output, tuple) else output
        x.retain_grad()
        hidden.append(x)
    hooks = [b.register_forward_pre_hook(before, with_kwargs=True) for b in blocks] + [blocks[-1].register_forward_hook(after)]
    logits = model(input_ids=ids, use_cache=False).logits
    for h in hooks:
        h.remove()
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    return logits, loss, hidden


def to_old_layout(config):
    """transformers 4.x: torch_dtype for dtype, rope_theta + rope_scaling for rope_parameters."""
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
    config["transformers_version"] = "4.46.0"


def make_model(name, seed):
    import torch, transformers
    from safetensors.torch import save_file
    kind, dtype, settings = MODELS[name]
    config = getattr(transformers, kind + "Config")(attn_implementation="sdpa", **settings)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    randomize(model, generator)
    model.to(getattr(torch, dtype))

    out = HERE / "models" / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    (out / "generation_config.json").unlink()
    stored = json.loads((out / "config.json").read_text())
    if name in OLD_LAYOUT:
        to_old_layout(stored)
        (out / "config.json").write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    if name in BARE_NAMES:
        weights = {k.removeprefix("model."): v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    ids = torch.randint(0, settings["vocab_size"], (2, 17), generator=generator)
    model = type(model).from_pretrained(out, dtype=torch.float32, attn_implementation="sdpa").eval()  # as the files have it
    plain = run(model, decoder(model).layers, ids)[0].detach().double()
    model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = exact_norm.__get__(module)
        elif type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = exact_rope(config).__get__(module)
    logits, loss, hidden = run(model, decoder(model).layers, ids)
    difference = (logits - plain).abs().max().item()
    assert difference < 2e-4, difference
    if settings.get("sliding_window"):  # the reference must have honoured it
        model.config.sliding_window, model.config.layer_types = None, ["full_attention"] * settings["num_hidden_layers"]
        model.model.has_sliding_layers = False
        assert (run(model, decoder(model).layers, ids)[0] - logits).abs().max() > 0.1
    loss.backward()

    golden = {"input_ids": ids.int(), "logits": logits, "loss": loss[None]}
    for b, x in enumerate(hidden):
        golden[f"hidden.{b}"], golden[f"dhidden.{b}"] = x, x.grad
    if name in GRADIENTS:
        golden |= {f"grad.{n}": p.grad for n, p in model.named_parameters()}
    golden = {k: v.detach().to(v.dtype if k == "input_ids" else torch.float32).contiguous() for k, v in golden.items()}
    (out / "golden").mkdir()
    save_file(golden, out / "golden" / "model.safetensors", metadata={"format": "pt"})
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{name}: logits std {logits.std().item():.2f}, loss {loss.item():.4f}, f32 run differs by {difference:.1e}, {size} bytes")


def decoder(model):
    return model.model.decoder if hasattr(model.model, "decoder") else model.model


# --- tokenizers -----------------------------------------------------------------------------------

L3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = L3.replace(r"\p{N}{1,3}", r"\p{N}")
FOREIGN = ["Καλημέρα κόσμε, τι κάνεις σήμερα;", "Привет, мир! Как дела сегодня?", "今日は世界。元気ですか？", "مرحبا بالعالم", "한국어 문장입니다",
           "naïve café déjà-vu Ångström Straße", "It's we've they'll I'd you're don't CAN'T", "1234 5678 90 3.14159 ½ ²³"] * 12

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\tx", " a", "a ", "a  b", "a   b    c", "   leading", "trailing   ", "line\n", "line\r\nline\r\n\r\n", "\n  \n x",
    "Hello world", "In the beginning God created the heaven and the earth.", "it's It'S IT'S we've I'll you'd don't they're 'tis o'clock", "'s't're've'm'll'd",
    "0", "7", "12", "123", "1234", "1234567890", "3.14159", "1,000,000.00", "x1y22z333", "½ ² Ⅷ ٣٤٥ 一二三", "a1 b2  c3", "  42  ",
    "!", "!!!", "?!...", "(a)[b]{c}<d>", "http://example.com/a?b=c&d=e#f", "user@example.org", "C:\\path\\file.txt", "```code```\n    indented\n\tTabbed",
    "naïve café", "cafe\u0301 nai\u0308ve", "A\u030a \u212b \u00c5", "\u1e9b\u0323", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "Straße ẞ ﬁ ﬂ", "İstanbul ıssız ſ K",
    "Καλημέρα κόσμε", "Привет, мир!", "你好，世界", "今日は世界。", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "😀", "👩‍👩‍👧‍👦 family", "🇺🇸🇩🇪", "👍🏽 ok", "a😀b 😀😀", "\u200b\u200d\ufeff", "\u00a0nbsp\u00a0", "\u2003em\u2003space", "\u3000全角\u3000", "a\u0085b\u2028c\u2029d", "\u00ad", "\ufffd",
    "\x00", "a\x00b", "\x01\x02\x1f\x7f", "\U0010ffff", "\U000e0041", "_snake_case_ camelCase", "—–-‐", "“quotes” ‘single’ «guillemets»",
    "<s>", "</s>", "<s></s>", "text<s>text", "text </s> text", "<s> In the beginning</s>\n", "<s", "<|begin_of_text|>", "a<|begin_of_text|>b<|end|>", "  <mask>  x", "x <mask>", "<mask><mask>",
    "<tool> and <tool_call>x</tool_call>", "<tool_cal", "x <|end|>  y<|end|>\n\n z<|end|>", "caf\u00e9tok cafe\u0301tok", "<0x41> <0xFF>",
    "a, a b ab-ab_ab (the) the\u0301 \u0301the the the the theé é éa é1 é\u200d \u24d0the \u2167the \u203fthe x\u0903the", "▁a▁▁b ▁ c", "<s> a<s>b <mask> the<|end|> Hello Hello",
    "thethethethe the the", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the " * 40, " " * 70, "\n" * 40, "-" * 80, "LORD of hosts " * 6, "ab" * 60,
    "And the LORD God said unto the serpent, Because thou hast done this, thou art cursed above all cattle, and above every beast of the field;\n\nupon thy belly shalt thou go",
]
INVALID = ["ff", "61ff62", "c3", "61c3", "e282", "e28261", "f09f98", "f09f9820", "c080", "e08080", "eda080", "f4908080", "f8888080", "f0808080", "f08f8080", "80", "8080", "61e2c3a9", "efbfbd80", "f09f98c3a962"]


def fuzz_texts(n):
    """Random texts over the characters that patterns, normalizers and alphabets treat differently."""
    pools = [" ", "  \n\r\t", "abcdefgXYZ", "the and of LORD ", "0123456789²½٣", "'", "sStTmMdDlLvVrReE", ".,;:!?-()[]{}<>/\\|@#$%^&*_+=~`\"", "éèüñçøå", "\u0301\u0308\u0323\u030a",
             "αβγδ", "абвг", "你好世界", "😀👍🏽", "\u00a0\u2003\u3000\u0085\u2028", "\u1112\u1161\u11ab", "<s></s><mask>", "\u200d\ufeff\x00\x7f"]
    rng = random.Random(7)
    for _ in range(n):
        chosen = rng.sample(pools, rng.randint(2, 6))
        yield "".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(1, 60)))


def added(content, **flags):
    from tokenizers import AddedToken
    return AddedToken(content, **{"special": True, "normalized": False, **flags})


def template(token, id):
    from tokenizers.processors import TemplateProcessing
    return TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, id)])


def trained(pre, vocab, specials, normalizer=None, byte_alphabet=True, **model):
    """A small BPE tokenizer of the King James text and some foreign lines."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_alphabet else []
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    t.train_from_iterator(KJV.read_text()[:200000].splitlines(True) + FOREIGN, trainer)
    return t


def tokenizers():
    """name: tokenizer. Each is one way through the reader; vocabularies are small to keep the files so."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers as p, processors
    gpt2 = trained(p.ByteLevel(add_prefix_space=False, use_regex=True), 420, ["<s>", "</s>"])
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    yield "byte-level", gpt2

    prefix = trained(p.ByteLevel(add_prefix_space=True, use_regex=True), 420, ["<s>", "</s>"])
    prefix.add_special_tokens([added("<mask>", lstrip=True), added("<|end|>", rstrip=True)])
    prefix.add_tokens([added("<tool>", special=False), added("<tool_call>", special=False, normalized=True), added("<tool_", special=False, normalized=True), added("the the", special=False)])
    prefix.post_processor = processors.TemplateProcessing(single="</s> $A <s>", pair="</s> $A $B", special_tokens=[("</s>", 1), ("<s>", 0)])
    yield "prefix-space", prefix

    llama3 = trained(p.Sequence([p.Split(Regex(L3), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)]), 460, [], ignore_merges=True)
    file = json.loads(llama3.to_str())  # words that only ignore_merges reaches: no merge makes them
    for word in ("ĠLORD", "Ġserpent", "thethethethe", "ĠÑģÐµÐ³"):
        file["model"]["vocab"].setdefault(word, len(file["model"]["vocab"]))
    llama3 = Tokenizer.from_str(json.dumps(file))
    llama3.add_special_tokens([added("<|begin_of_text|>"), added("<|end|>")])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])
    yield "llama3", llama3

    qwen = trained(p.Sequence([p.Split(Regex(QWEN), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)]), 420, [], normalizers.NFC())
    qwen.add_tokens([added("cafe\u0301tok", special=False, normalized=True), added("<|end|>")])
    yield "qwen", qwen

    smol = trained(p.Sequence([p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False, use_regex=True)]), 420, ["<s>", "</s>"])
    yield "digits", smol

    stages = trained(p.Sequence([p.Split(" ", "merged_with_next"), p.Split(Regex(r"[.,;:!?]"), "merged_with_previous"), p.Digits(individual_digits=False),
                                 p.Split(Regex(r"[a-z]+"), "contiguous"), p.ByteLevel(add_prefix_space=False, use_regex=False)]), 420, ["<s>"])
    yield "stages", stages

    removed = trained(p.Sequence([p.Split(Regex(r"\p{L}+|\p{N}"), "removed", invert=True), p.Split("t", "removed"), p.ByteLevel(add_prefix_space=False, use_regex=False)]),
                      380, ["<s>"])
    yield "removed", removed

    fallback = trained(p.Split(" ", "isolated"), 200, ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)], byte_alphabet=False, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    yield "byte-fallback", fallback

    unknown = trained(p.Split(" ", "isolated"), 120, ["<unk>"], byte_alphabet=False, unk_token="<unk>", fuse_unk=True)
    yield "fused-unknown", unknown

    some = json.loads(trained(p.Split(" ", "isolated"), 120, ["<unk>"], byte_alphabet=False, unk_token="<unk>").to_str())
    some["model"]["byte_fallback"] = True  # of the bytes only those of é: the others stay unknown
    for name in ("<0xC3>", "<0xA9>"):
        some["model"]["vocab"][name] = len(some["model"]["vocab"])
    some["pre_tokenizer"] = None  # the whole text is one word
    yield "one-word", Tokenizer.from_str(json.dumps(some))

    bare = trained(p.ByteLevel(add_prefix_space=False, use_regex=True), 380, [])
    bare.pre_tokenizer, bare.model = p.ByteLevel(add_prefix_space=False, use_regex=True), bare.model
    yield "no-merges", Tokenizer.from_str(json.dumps({**json.loads(bare.to_str()), "model": {**json.loads(bare.to_str())["model"], "merges": []}}))


def sentencepiece():
    """As Llama-2's: characters, bytes for those it lacks, marks for spaces, of which several are a token too."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers as p
    t = trained(p.Metaspace(prepend_scheme="always"), 520, ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], byte_alphabet=False,
                unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    file = json.loads(t.to_str())
    file["added_tokens"] = file["added_tokens"][:3]  # the bytes are tokens of the model only
    for n in (1, 2, 4):
        file["model"]["vocab"]["▁" * 2 * n] = len(file["model"]["vocab"])
        file["model"]["merges"].append(["▁" * n, "▁" * n])
    t = Tokenizer.from_str(json.dumps(file))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = None
    t.post_processor = template("<s>", 1)
    return t


def spaces_marked():
    """The ways by which tokenizers of SentencePiece's kind mark spaces."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers as p
    llama2 = sentencepiece()
    llama2.add_special_tokens([added("<mask>", lstrip=True), added("<|end|>", rstrip=True)])
    llama2.add_tokens([added("the the", special=False, normalized=True), added(" of", special=False, normalized=True)])
    yield "llama2", llama2
    for name, pre in (("metaspace-first", p.Metaspace(prepend_scheme="first", split=False)),
                      ("metaspace-always", p.Metaspace(prepend_scheme="always", split=True)),
                      ("metaspace-late", p.Sequence([p.Split(Regex(r"\p{N}"), "isolated"), p.Metaspace(prepend_scheme="first", split=True)]))):
        t = sentencepiece()
        t.normalizer, t.pre_tokenizer = None, pre
        t.add_special_tokens([added("<mask>", lstrip=True), added("<|end|>", rstrip=True)])
        t.add_tokens([added("Hello", special=False, normalized=True), added("the", special=False, single_word=True)])
        yield name, t

    words = trained(p.ByteLevel(add_prefix_space=False, use_regex=True), 380, ["<s>", "</s>"])
    words.add_tokens([added("the", special=False, single_word=True), added("the the", special=False, single_word=True), added("a", special=False, single_word=True, lstrip=True),
                      added("é", special=False, single_word=True, normalized=True, rstrip=True), added("ab", special=False, single_word=True, normalized=True)])
    yield "single-word", words


def write_golden(out, t, texts):
    ids = lambda s: t.encode(s, add_special_tokens=False).ids
    golden = {
        "size": max(t.get_vocab().values()) + 1,
        "prefix": t.encode("x").ids[:t.encode("x").tokens.index(t.encode("x", add_special_tokens=False).tokens[0])] if ids("x") else t.encode("").ids,
        "ids": [ids(s) for s in texts],
        "invalid": [ids(bytes.fromhex(h).decode("utf-8", "replace")) for h in INVALID],
    }
    (out / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


SPLIT_TEXTS = ["", "a", "!", "!!!", "a!b", "a!!b", "!!a!!!b", "ab, cd.. ef", "...", "a.b.c", " a  b ", "12a345 6", "1½2٣ 4Ⅷx", "é!ñ", "一.二..三", "▁a▁▁ b", ".▁a", " .a", "one\ntwo\n\nthree", "\n", "ſ K's'S", "it's 10's\u00a0x\u2003y"]


def split_cases():
    regex = lambda r: {"Regex": r}
    for behavior in ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        for invert in (False, True):
            yield from ({"type": "Split", "pattern": p, "behavior": behavior, "invert": invert} for p in (regex(r"[.!,]"), {"String": "."}, regex(r"\p{N}|\p{L}+")))
    yield from ({"type": "Split", "pattern": regex(r), "behavior": "Isolated", "invert": False} for r in (
        r"^.", r".$", r"\s+$", r"(?i:s)", r"\d+", r"[^\]a]+", r"\x{e9}", r"\p{Greek}|\p{Han}", r"x*", r"(?=a)", r"\S(?!\S)", r"(?<=a)[!.]", r"[\[\].!]+", r"a{1,2}|b{2}"))
    yield from ({"type": "Digits", "individual_digits": d} for d in (False, True))
    yield from ({"type": "ByteLevel", "add_prefix_space": a, "trim_offsets": True, "use_regex": r} for a in (False, True) for r in (False, True))
    for scheme in ("always", "first", "never"):
        yield from ({"type": "Metaspace", "replacement": r, "prepend_scheme": scheme, "split": s} for r, s in (("▁", True), ("▁", False), ("!", True)))
        yield from ({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"String": "."}, "behavior": b, "invert": False},
                                                           {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}]} for b in ("Isolated", "Removed"))
    yield {"type": "Metaspace", "replacement": "▁"}
    yield {"type": "Metaspace", "replacement": "▁", "add_prefix_space": False, "prepend_scheme": "never"}
    yield {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "prepend_scheme": "never", "str_rep": "▁"}
    yield {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": regex(r"\s"), "behavior": "MergedWithNext", "invert": False},
                                                 {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}]},
                                                 {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]}


def make_splits(out):
    from tokenizers import Tokenizer
    cases = []
    for pre in split_cases():
        t = Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": pre, "added_tokens": []}))
        cases.append({"pre_tokenizer": pre, "pieces": [[piece for piece, _ in t.pre_tokenizer.pre_tokenize_str(s)] for s in SPLIT_TEXTS]})
    (out / "splits.json").write_text(json.dumps({"texts": SPLIT_TEXTS, "cases": cases}, separators=(",", ":")).replace('{"pre_tok', '\n{"pre_tok') + "\n")


def make_stories(out):
    from tokenizers import Tokenizer
    file = SHARED / "models" / "stories260K" / "tokenizer.json"
    if not file.exists():
        return print(f"{file} is not there: stories260K.json stays as it is")
    t = Tokenizer.from_file(str(file))
    texts = ["Once upon a time, there was a little girl named Lily.", " She loved  to play.\n\n\"Hi!\" she said.", "naïve 😀 <s>Tom</s> x", "▁", "a" * 50, "   \n\t"]
    (out / "stories260K.json").write_text(json.dumps({"texts": texts, "ids": [t.encode(s, add_special_tokens=False).ids for s in texts]}) + "\n")


def make_tokenizers():
    out = HERE / "tokenizers"
    out.mkdir(exist_ok=True)
    for old in out.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    make_stories(out)
    texts = TEXTS + list(fuzz_texts(120))
    (out / "texts.json").write_text(json.dumps({"texts": texts, "invalid": INVALID}, indent=0) + "\n")
    make_splits(out)
    made = dict(tokenizers()) | dict(spaces_marked())
    for name, t in made.items():
        (out / name).mkdir()
        (out / name / "tokenizer.json").write_text(t.to_str() + "\n")
        write_golden(out / name, t, texts)
        print(f"{name}: {t.get_vocab_size()} tokens")

    # the older pair of files, and merges as strings: same tokens, other spelling
    old, t = out / "vocab-and-merges", made["byte-level"]
    old.mkdir()
    model = json.loads(t.to_str())["model"]
    (old / "vocab.json").write_text(json.dumps(model["vocab"]) + "\n")
    (old / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    (old / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": True, "add_prefix_space": False, "bos_token": {"content": "</s>", "normalized": True}, "eos_token": "</s>", "unk_token": "<s>"}) + "\n")
    t.post_processor = template("</s>", 1)
    write_golden(old, t, texts)
    strings, t = out / "merge-strings", made["digits"]
    strings.mkdir()
    file = json.loads(t.to_str())
    file["model"]["merges"] = ["#version: 0.2"] + [f"{a} {b}" for a, b in file["model"]["merges"]]
    (strings / "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False) + "\n")
    write_golden(strings, t, texts)


# --- GGUF -----------------------------------------------------------------------------------------

BLOCK_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q6_K": [208], "Q2_0": [0]}


def random_blocks(name, rows, cols, seed):
    """Rows of blocks of random bytes, their f16 fields of the size of weights."""
    import gguf
    import numpy as np
    r = np.random.default_rng(seed)
    if name in ("F32", "F16", "BF16"):
        x = r.standard_normal((rows, cols)).astype(np.float32)
        if name == "BF16":
            return (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return x.astype(np.float16 if name == "F16" else np.float32).view(np.uint8)
    elements, size = (64, 18) if name == "Q2_0" else gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = r.integers(0, 256, (rows * cols // elements, size), dtype=np.uint8)
    for at in HALVES[name]:
        blocks[:, at:at + 2] = (r.standard_normal((len(blocks), 1)) * 0.02).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def block_values(name, raw):
    import gguf
    import numpy as np
    if name != "Q2_0":
        return gguf.dequantize(raw if name not in ("F32", "F16") else raw.view(np.float32 if name == "F32" else np.float16), gguf.GGMLQuantizationType[name]).astype(np.float32)
    blocks = raw.reshape(-1, 18)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    return ((codes.reshape(len(blocks), 64).astype(np.float32) - 1) * d).reshape(len(raw), -1)


# name: (keys of the architecture, other tensors' types, types of a block's seven layers)
GGUF_MODELS = {
    "llama": (dict(heads=4, kv=2, ffn=256, theta=10000.0), "Q8_0", ["Q4_1", "Q8_0", "Q5_0", "F16", "Q4_0", "Q5_1", "Q6_K"]),
    "qwen2": (dict(heads=4, kv=2, ffn=64, theta=1e6), "BF16", ["F32", "Q4_0", "F16", "Q8_0", "BF16", "Q5_1", "Q4_1"]),
    "qwen3": (dict(heads=2, kv=1, ffn=64, theta=1e6, head_dim=32), "F16", ["Q8_0", "Q4_1", "F32", "Q5_0", "F16", "Q4_0", "BF16"]),
}


def make_gguf_model(out, name, seed):
    import gguf
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    sizes, embedding, types = GGUF_MODELS[name]
    hidden, vocab, heads, kv, ffn = 32, 64, sizes["heads"], sizes["kv"], sizes["ffn"]
    d = sizes.get("head_dim", hidden // heads)
    path = out / f"{name}.gguf"
    w = gguf.GGUFWriter(path, name)
    w.add_block_count(1), w.add_context_length(128), w.add_embedding_length(hidden), w.add_feed_forward_length(ffn)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_rope_freq_base(sizes["theta"]), w.add_layer_norm_rms_eps(1e-5), w.add_vocab_size(vocab)
    if "head_dim" in sizes:
        w.add_key_length(d), w.add_value_length(d)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("gpt-2")
    letters = [chr(c) for c in range(33, 33 + vocab - 3)] + ['!"']
    w.add_token_list(["<s>", "</s>"] + letters), w.add_token_types([3, 3] + [1] * (vocab - 2)), w.add_token_merges(['! "'])
    w.add_bos_token_id(0), w.add_eos_token_id(1), w.add_add_bos_token(True), w.add_chat_template("{{ messages }} größer")

    def add(tensor, kind, rows, cols, n):
        t = gguf.GGMLQuantizationType[kind]
        raw = random_blocks(kind, rows or 1, cols, 100 * seed + n)
        data = raw.view({"F32": np.float32, "F16": np.float16}[kind]) if kind in ("F32", "F16") else raw
        w.add_tensor(tensor, data if rows else data[0], raw_dtype=t)
    add("token_embd.weight", embedding, vocab, hidden, 0)
    shapes = [(heads * d, hidden), (kv * d, hidden), (kv * d, hidden), (hidden, heads * d), (ffn, hidden), (ffn, hidden), (hidden, ffn)]
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    for i, (part, (rows, cols), kind) in enumerate(zip(names, shapes, types)):
        add(f"blk.0.{part}.weight", kind, rows, cols, i + 1)
        if name == "qwen2" and i < 3:
            add(f"blk.0.{part}.bias", "F32", 0, rows, i + 11)
    norms = ["attn_norm", "ffn_norm"] + (["attn_q_norm", "attn_k_norm"] if name == "qwen3" else [])
    for i, part in enumerate(norms):
        add(f"blk.0.{part}.weight", "F32", 0, d if "_q_" in part or "_k_" in part else hidden, i + 21)
    add("output_norm.weight", "F32", 0, hidden, 30)
    if name == "qwen2":
        add("output.weight", "Q8_0", vocab, hidden, 31)
    if name == "llama":  # Llama 3's scaling: factor 4, low 1, high 4, 64 positions
        f = sizes["theta"] ** (-np.arange(0, d, 2, dtype=np.float64) / d)
        wave = 2 * np.pi / f
        s = (64 / wave - 1) / 3
        divisors = np.where(wave < 16, 1, np.where(wave > 64, 4, 1 / ((1 - s) / 4 + s))).astype(np.float32)
        w.add_tensor("rope_freqs.weight", divisors)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=path.name, dtype=torch.float32)
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if "rotary" not in k}
    if name != "qwen2":
        tensors.pop("lm_head.weight", None)
    (out / name).mkdir()
    save_file(tensors, out / name / "model.safetensors", metadata={"format": "pt"})
    print(f"gguf {name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def write_gguf_tokenizer(path, model, pre, tokens, types, **more):
    import gguf
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model), w.add_tokenizer_pre(pre), w.add_token_list(tokens), w.add_token_types(types)
    if "merges" in more:
        w.add_token_merges(more["merges"])
    if "scores" in more:
        w.add_token_scores(more["scores"])
    if more.get("bos") is not None:
        w.add_bos_token_id(more["bos"]), w.add_add_bos_token(True)
    w.add_unk_token_id(0)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def make_gguf_tokenizers(out):
    from tokenizers import Tokenizer
    texts = json.loads((HERE / "tokenizers/texts.json").read_text())["texts"]
    for name, pre in {"byte-level": "gpt-2", "digits": "smollm", "llama3": "llama-bpe", "qwen": "qwen2"}.items():
        file = json.loads((HERE / "tokenizers" / name / "tokenizer.json").read_text())
        added = {t["id"]: t for t in file["added_tokens"]}
        ids = {i: t for t, i in file["model"]["vocab"].items()} | {i: t["content"] for i, t in added.items()}
        tokens = [ids.get(i, f"[PAD{i}]") for i in range(max(ids) + 3)]  # and two rows that are no token
        types = [(3 if added[i]["special"] else 4) if i in added else 1 if i in ids else 5 for i in range(len(tokens))]
        merges = [m if isinstance(m, str) else " ".join(m) for m in file["model"]["merges"]]
        bos = next((i for i, t in added.items() if t["content"] == "<|begin_of_text|>"), None)
        write_gguf_tokenizer(out / f"{name}.gguf", "gpt2", pre, tokens, types, merges=merges, bos=bos)
        if name == "qwen":
            for t in file["added_tokens"]:
                t["normalized"] = False
            t = Tokenizer.from_str(json.dumps(file))
            got = [t.encode(x, add_special_tokens=False).ids for x in texts]
            (out / "qwen.json").write_text(json.dumps({"ids": got}) + "\n")
    source = SHARED / "models/stories260K-src/tok512.model"
    if source.exists():
        tokens, scores, types = read_sentencepiece(source.read_bytes())
        write_gguf_tokenizer(out / "stories260K.gguf", "llama", "default", tokens, types, scores=scores, bos=1)


def read_sentencepiece(data):
    """Pieces (text, score, type) of a SentencePiece model: field 1 of its protobuf, fields 1, 2 and 3 of each."""
    import struct

    def fields(b):
        at = 0

        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = b[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(b):
            key = varint()
            if key & 7 == 0:
                value = varint()
            else:
                n = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
                value, at = b[at:at + n], at + n
            yield key >> 3, value
    tokens, scores, types = [], [], []
    for number, value in fields(data):
        if number == 1:
            piece = dict(fields(value))
            tokens.append(piece[1].decode())
            scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
            types.append(piece.get(3, 1))
    return tokens, scores, types


def make_gguf():
    import numpy as np
    from safetensors.numpy import save_file
    out = HERE / "gguf"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    blocks = {}
    for seed, name in enumerate(BLOCK_TYPES + ["Q2_0"]):
        raw = random_blocks(name, 2, 512, seed)
        blocks[name + ".raw"], blocks[name + ".values"] = raw.copy(), block_values(name, raw).reshape(2, 512)
    (out / "blocks").mkdir()
    save_file(blocks, out / "blocks/model.safetensors")
    for seed, name in enumerate(GGUF_MODELS, 1):
        make_gguf_model(out, name, seed)
    make_gguf_tokenizers(out)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["models", "tokenizers", "gguf"]
    if "models" in wanted:
        for seed, name in enumerate(MODELS, 1):
            make_model(name, seed)
    if "tokenizers" in wanted:
        make_tokenizers()
    if "gguf" in wanted:
        make_gguf()
