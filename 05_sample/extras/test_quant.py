"""Tests of quant.py: the idea by hand, then the forms, then whole models, then the command."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

import quant
import train
from blocked import Blocked
from family import FAMILIES, model_config
from gpt import GPT, GPTConfig, KVCache, generate, make_model
from lora import add_adapters
from quant import (GROUP, KINDS, Int4, Int8, Transposed, int4_or_int8, int8_engine,
                   int8_linear_by_hand, main, pack, quantize_groups, quantize_rows,
                   quantize_tensor, quantized_engine, weight_bytes)

HAS_ENGINE = set(torch.backends.quantized.supported_engines) & {"x86", "fbgemm", "qnnpack",
                                                                "onednn"}
needs_int8 = pytest.mark.skipif(not HAS_ENGINE, reason="this torch has no int8 kernels")
KINDS_HERE = [kind for kind in KINDS if kind not in ("int8", "int4") or HAS_ENGINE]
SHAPES = {**FAMILIES, "tied": {"tied": True}, "grouped": {"n_kv_head": 1, "bias": True}}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def random_model(**fields):
    """A model whose parameters are all random: a new one's zeros would hide mistakes."""
    shape = dict(vocab_size=61, seq_len=64, n_layer=2, d_model=32, d_ff=48)
    model = make_model(model_config(**shape | fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def random_linear(n_in=40, n_out=24, bias=True, seed=0):
    linear = nn.Linear(n_in, n_out, bias).requires_grad_(False)
    linear.weight.copy_(randn(n_out, n_in, seed=seed))
    linear.weight[3] = 0  # as in a new model
    if bias:
        linear.bias.copy_(randn(n_out, seed=seed + 1))
    return linear


# ---- the idea, by hand ----
def test_quantize_rows():
    q, scales = quantize_rows(torch.tensor([[2.54, -1.28, 0.051], [0.0, 0.0, 0.0],
                                            [0.001, -0.127, 0.0], [-254.0, 3.1, 2.9]]))
    assert q.dtype == torch.int8 and scales.shape == (4,)
    assert q[0].tolist() == [127, -64, 3] and scales[0] == pytest.approx(0.02), (
        "a row's own largest number is 127 of its scale; the others are rounded")
    assert q[1].tolist() == [0, 0, 0] and scales[1] == 1, (
        "a row of zeros has the scale 1, so that it stays zeros")
    assert q[2].tolist() == [1, -127, 0], "a small row has a small scale of its own"
    assert q[3].tolist() == [-127, 2, 1], "rounded to the nearest, not cut off"
    w = randn(30, 50) * torch.logspace(-6, 6, 30)[:, None]
    q, scales = quantize_rows(w)
    error = (q * scales[:, None] - w).abs() / scales[:, None]
    assert error.max() <= 0.5001, "nothing may be off by more than half a scale"
    assert (q.abs().amax(dim=1) == 127).all(), "the largest of each row is 127: no step is unused"


def test_quantize_tensor():
    u, scale, zero = quantize_tensor(torch.tensor([-1.0, 0.0, 4.1]))
    assert u.tolist() == [0, 50, 255] and u.dtype == torch.uint8
    assert float(scale) == pytest.approx(0.02) and int(zero) == 50
    u, scale, zero = quantize_tensor(torch.tensor([3.0, 5.1]))
    assert u.tolist() == [150, 255] and int(zero) == 0, "the range must hold 0.0, whatever is in x"
    u, scale, zero = quantize_tensor(torch.tensor([[-2.54], [-0.5]]), top=127)
    assert u.tolist() == [[0], [102]] and int(zero) == 127
    u, scale, zero = quantize_tensor(torch.zeros(2, 3))
    assert not u.any() and zero == 0 and scale > 0, "zeros stay zeros, and nothing is nan"
    for top in range(2, 256):
        u, scale, zero = quantize_tensor(torch.tensor([-1.0, 1.0]), top)
        assert u[0] < u[1] <= top, f"-1 and 1 must lie within 0 .. {top}, but are {u}"
    x = randn(500)
    u, scale, zero = quantize_tensor(x)
    error = ((u.int() - zero) * scale - x).abs() / scale
    assert error.max() <= 1.001 and error[(u > 0) & (u < 255)].max() <= 0.501, (
        "rounded to the nearest: off by half a step, at the ends by one")


def test_int8_linear_by_hand():
    x = torch.tensor([[1.0, -1.0], [0.0, 0.0], [-1.0, -0.5]])
    q, scales = torch.tensor([[127, 0], [1, -127]], dtype=torch.int8), torch.tensor([0.5, 2.0])
    y = int8_linear_by_hand(x, q, scales, torch.tensor([10.0, 20.0]))
    expected = torch.tensor([[73.5, 276.0], [10.0, 20.0], [-53.5, 145.0]])
    torch.testing.assert_close(y, expected, rtol=0.01, atol=0, msg=(
        "take off `zero`, and sum products in int32: int8 overflows"))

    linear, x = random_linear(), randn(9, 40)
    x[3] *= 1000
    x[5] /= 1000
    y = int8_linear_by_hand(x, *quantize_rows(linear.weight), linear.bias)
    # x and w are each off by a step at most (of 127), for each of the products that are summed
    bound = (x.abs().amax(1)[:, None] * linear.weight.abs().sum(1)
             + x.abs().sum(1)[:, None] * linear.weight.abs().amax(1)) / 127
    assert ((y - linear(x)).abs() <= bound).all(), (
        "each row of x has its own largest number, by which its result is multiplied in the end")
    error = (y - linear(x)).norm(dim=1) / (linear(x) - linear.bias).norm(dim=1)
    assert error.max() < 0.03, f"every row is near, the small ones too, not off by {error}"


def test_int8_linear_by_hand_scales_each_row():
    q, scales = quantize_rows(randn(24, 40))
    x = randn(2, 40, seed=1)
    x[1] = -x[0]  # so that the range stays the same, whatever it is multiplied by
    y = int8_linear_by_hand(x, q, scales)
    x[1] *= 1024
    z = int8_linear_by_hand(x, q, scales)
    assert torch.equal(z[0], y[0]), "a large row must not take a small one's steps away"
    assert torch.equal(z[1], y[1] * 1024)


def dequantized(q, steps):
    """The matrix, in float32, that quantize_groups() has rounded to."""
    scale, offset = steps.float().transpose(0, 1).split(1, dim=2)  # (out, groups, 1)
    return ((q.unflatten(1, (scale.shape[1], -1)) - 8) * scale + offset).flatten(1)


def test_quantize_groups():
    q, steps = quantize_groups(torch.tensor([[0.0, 15.0, 3.2, 1.0], [-7.0, 8.0, 0.0, 0.0]]), 2)
    assert q.dtype == torch.int32 and q[0].tolist() == [0, 15, 15, 0], (
        "each group's smallest number is 0 and its largest is 15")
    assert steps.dtype == torch.bfloat16 and steps.shape == (2, 2, 2), (
        "a scale and an offset for each group of each row, the groups first")
    expected = torch.tensor([[[1.0, 8.0], [1.0, 1.0]], [[2.2 / 15, 1 + 8 * 2.2 / 15], [0, 0]]])
    torch.testing.assert_close(steps.float(), expected, rtol=0.004, atol=1e-30, msg=(
        "a scale is a 15th of its group's range, an offset what q = 8 stands for"))
    assert not dequantized(q, steps)[1, 2:].any(), "a group of zeros stays zeros"
    assert 0 <= q.min() and q.max() <= 15, "of zeros, too, q must lie within 0 ... 15"

    w = randn(32, 256) * torch.logspace(-6, 6, 8).repeat_interleave(32)  # a size for each group
    w[:, 32:64] += 1000
    q, steps = quantize_groups(w)
    assert 0 == q.min() and q.max() == 15, "q must lie within 0 ... 15, all that 4 bits hold"
    scale = steps.float()[..., 0].t().repeat_interleave(GROUP, 1)
    error = (dequantized(q, steps) - w).abs() / scale
    error[:, 32:64] = 0  # there bfloat16 offsets are coarser than a scale
    assert error[(q > 0) & (q < 15)].max() <= 0.501, (
        "rounded to the nearest, with the scale and the offset as they are in bfloat16")
    assert error.max() < 0.6, "at the ends it is a little more, as they are rounded too"


# ---- the forms ----
FORMS = {"Transposed": Transposed, "Blocked": lambda linear: Blocked(linear, 8), "Int8": Int8,
         "Int4": Int4}


@pytest.mark.parametrize("name", [name for name in FORMS
                                  if (name != "Int8" or HAS_ENGINE)
                                  and (name != "Blocked" or torch.backends.mkldnn.is_available())])
@pytest.mark.parametrize("bias", [True, False])
def test_forms(name, bias):
    linear = random_linear(64, 48, bias=bias)
    form, bound = FORMS[name](linear), {"Int8": 0.02, "Int4": 0.1}.get(name, 1e-5)
    for x in (randn(1, 64), randn(5, 64), randn(1, 1, 64), randn(3, 7, 64), randn(60, 64),
              randn(64, 8).t(), randn(4, 6, 64)[:, -1]):  # the last two don't lie in one piece
        kept, y = x.clone(), form(x)
        assert torch.equal(x, kept), "what is read must not be written to"
        error = (y - linear(x)).norm() / linear(x).norm()
        assert y.shape == linear(x).shape and y.dtype == torch.float32 and error < bound


@needs_int8
@pytest.mark.parametrize("bias", [True, False])
def test_int8_is_the_one_by_hand(bias):
    linear = random_linear(bias=bias)
    form, (q, scales) = Int8(linear), quantize_rows(linear.weight)
    _, halved = int8_engine()
    for n in (1, 2, 30):
        x = randn(n, 40, seed=n)
        x[0] *= 500
        by_hand = int8_linear_by_hand(x, q, scales, linear.bias, top=127 if halved else 255)
        # Numbers just between two steps may go either way: each moves a sum by a step times w.
        step = 2 * x.abs().amax(1)[:, None] / (127 if halved else 255) * scales * 127
        difference = (form(x) - by_hand).abs()
        assert (difference <= 1.01 * step).all()
        assert difference.median() < 0.01 * step.median(), "but hardly any does"


@needs_int8
def test_int8_with_seven_bits():
    """Where sums of 16 bits could overflow, the largest number is 127, and nothing else changes."""
    name, _ = int8_engine()
    if name == "qnnpack":
        pytest.skip("qnnpack's sums have 32 bits")
    linear, x = random_linear(bias=False), randn(7, 40)
    form = Int8(linear)
    form.halve = True
    by_hand = int8_linear_by_hand(x, *quantize_rows(linear.weight), top=127)
    step = 2 * x.abs().amax(1)[:, None] / 127 * linear.weight.abs().amax(1)
    assert ((form(x) - by_hand).abs() <= 1.01 * step).all()
    form.halve = False
    finer = (form(x) - linear(x)).norm() < (by_hand - linear(x)).norm()
    if name not in ("x86", "fbgemm") or torch.cpu._is_vnni_supported():
        assert finer, "8 bits are finer than 7"
    else:
        assert not finer, "on this processor sums of 8 bits overflow, so 7 must be chosen"
        assert Int8(linear).halve, "sums overflow, but 7 bits are not chosen"


@pytest.mark.parametrize("n_in, n_out", [(32, 16), (64, 48), (96, 64), (256, 208)])
def test_int4_is_a_product_of_what_was_rounded(n_in, n_out):
    linear = random_linear(n_in, n_out)
    form, w = Int4(linear), dequantized(*quantize_groups(linear.weight))
    for n in (1, 2, 5, 30):
        x = randn(n, n_in, seed=n)
        x[0] *= 500
        expected = nn.functional.linear(x, w, linear.bias)
        bound = 2 ** -8 * (x.abs() @ w.abs().t() + expected.abs())  # x and the sum as bfloat16
        assert ((form(x) - expected).abs() <= bound).all()
        rounded = nn.functional.linear(x.bfloat16().float(), w)
        y = form(x) - linear.bias
        assert ((y - rounded).norm() / rounded.norm()) < 0.003, "only the sum is rounded then"


@needs_int8
def test_int4_or_int8(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for n_in, n_out, form in ((64, 48, Int4), (40, 48, Int8), (64, 24, Int8)):
        assert type(int4_or_int8(random_linear(n_in, n_out))) is form
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert type(int4_or_int8(random_linear(64, 48))) is Int8


@needs_int8
def test_int8_leaves_torch_as_it_was():
    name, _ = int8_engine()
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Int8(random_linear())
        assert torch.backends.quantized.engine == before
        with pytest.raises(UserWarning, match="another"), quantized_engine(name):
            warnings.warn("another one")
    assert torch.backends.quantized.engine == before, "after an error too"


# ---- a model ----
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS_HERE)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_pack(shape, kind, rows):
    plain = random_model(**SHAPES[shape])
    packed = pack(copy.deepcopy(plain), kind, rows)
    bound = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.1, "int4": 0.5}[kind]

    def near(a, b):
        return ((a - b).norm() / b.norm()).item() < bound

    with torch.inference_mode():
        for ids in (random_ids(1, 1), random_ids(5, 3), random_ids(1, 40)):
            logits = packed(ids)
            assert logits.dtype == torch.float32 and near(logits, plain(ids))
        cache = KVCache(packed.config, 5, dtype=packed.embed.weight.dtype)
        ids = random_ids(5, 40)
        parts = [packed(part, cache) for part in ids.split([36, 1, 1, 2], dim=1)]
        assert near(torch.cat(parts, dim=1), plain(ids)), "a cache and single steps"


def test_pack_changes_every_matrix():
    for kind, rows, form in (("float32", 1, Transposed), ("float32", 5, Blocked),
                             ("float32", 2, nn.Linear), ("float32", 40, nn.Linear),
                             ("int8", 1, Int8)):
        if kind in KINDS_HERE and (form != Blocked or torch.backends.mkldnn.is_available()):
            model = random_model(tied=True, activation="swiglu")
            assert pack(model, kind, rows) is model
            matrices = [m for m in model.modules() if isinstance(m, (nn.Linear, form))]
            assert len(matrices) == 2 * 5 + 1 and all(type(m) is form for m in matrices)


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_pack_merges_adapters(kind):
    adapted = add_adapters(random_model(), 4)
    for parameter in adapted.parameters():
        nn.init.normal_(parameter, std=0.2)
    expected = adapted(random_ids(1, 40))
    found = pack(copy.deepcopy(adapted), kind)(random_ids(1, 40))
    bound = {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.1, "int4": 0.5}[kind]
    assert (found - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_pack_generates(kind):
    """All can write, from one prompt or several; float32 writes what the model would have."""
    plain = random_model(**FAMILIES["llama"])
    prompts = [[1, 2, 3], [4], [5, 6]]
    for rows in (1, 3, 6):
        packed = pack(copy.deepcopy(plain), kind, rows)
        said = torch.stack(list(generate(packed, prompts[:rows], 20, n_samples=max(1, rows // 3))))
        assert said.shape == (20, rows)
        if kind == "float32":
            expected = generate(plain, prompts[:rows], 20, n_samples=max(1, rows // 3))
            assert torch.equal(said, torch.stack(list(expected)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS_HERE)
@pytest.mark.parametrize("rows", [1, 8])
def test_pack_frees_what_it_replaces(kind, rows, tied):
    model = random_model(vocab_size=300, tied=tied)
    table, head = 4 * 300 * 32, 4 * 300 * 32
    blocks = 4 * 2 * (4 * 32 * 32 + 2 * 32 * 48)  # n_head is 2, so are the key/value heads
    before = weight_bytes(model)
    assert before == table + blocks + (0 if tied else head)
    old = [weakref.ref(module.weight) for module in model.modules()
           if isinstance(module, nn.Linear)]
    pack(model, kind, rows)
    gc.collect()
    if type(model.head) is not nn.Linear:  # bfloat16 is put into the old parameters
        assert [ref() for ref in old if ref() is not None] == [model.embed.weight][:tied], \
            "somebody still holds old weights; only the embedding may stay"
    scales = 4 * (300 + 2 * (96 + 32 + 48 + 32))
    expected = {"float32": table + blocks + head, "bfloat16": before / 2,
                "int8": table + (blocks + head) / 4 + scales}
    expected["int4"] = expected["int8"]
    if torch.backends.cpu.get_cpu_capability() == "AVX512":  # of 5 bits, all but head and down
        expected["int4"] -= 2 * (3 / 8 * (4 * 32 * 32 + 32 * 48) + 4 * (96 + 32 + 48))
    expected = expected[kind]
    assert weight_bytes(model) == expected


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_pack_refuses(kind):
    model = pack(random_model(), kind)
    with pytest.raises(RuntimeError, match="grad"):
        model.loss(random_ids(1, 4), random_ids(1, 4)).sum().backward()
    if kind != "bfloat16":
        with pytest.raises(AssertionError, match="packed already"):
            pack(model, kind)
    with pytest.raises(ValueError, match="'int2'.*float32, bfloat16, int8, int4"):
        pack(random_model(), "int2")
    for few_bits in ("int8", "int4"):
        with pytest.raises(ValueError, match=f"{few_bits}.*CPU.*cuda"):
            quant.choose_form(few_bits, 1, "cuda")
    assert quant.choose_form("float32", 1, "cuda") is None


@pytest.fixture(scope="module")
def learned():
    """(a model, the ids that it has learned by heart)"""
    model = GPT(GPTConfig(vocab_size=61, seq_len=64, n_layer=2, d_model=32, d_ff=64))
    ids = random_ids(1, 49)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).mean().backward()
        optimizer.step()
    return model.eval(), ids


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_pack_knows_what_was_learned(learned, kind):
    model, ids = copy.deepcopy(learned)
    with torch.inference_mode():
        before = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        after = pack(model, kind).loss(ids[:, :-1], ids[:, 1:]).mean()
    bound = 0.1 if kind == "int4" else 0.02
    assert before < 0.1 and abs(after - before) < bound, f"{before} became {after}"
    said = torch.cat(list(generate(model, [ids[0, :4].tolist()], 45)))
    assert said.tolist() == ids[0, 4:].tolist()


# ---- the command ----
def test_command_line(tmp_path, capsys, fails, quick_runs):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("".join(f"{i} spam {j} eggs\n" for j in range(400)))
    runs = ["--runs-dir", str(tmp_path / ".runs"), "--device", "cpu"]
    train.main(["--preset", "nano", "--data", f"folder:{tmp_path}", "--vocab-size", "300",
                "--steps", "2", "--data-dir", str(tmp_path / ".data"), *runs])
    capsys.readouterr()
    for more in ([], ["--file", str(tmp_path / "0.txt"), "--window", "16"]):
        main([*runs, "--tokens", "500", *more])
        rows = [row.split() for row in capsys.readouterr().out.splitlines()[-5:]]
        assert [row[0] for row in rows] == ["as", *KINDS]
        table = [[float(cell.strip("%").replace(",", "")) for cell in row[-6:]] for row in rows]
        plain, same, half, quarter, fewest = table
        assert plain[0] == same[0] > half[0] > quarter[0] >= fewest[0], "MB of weights"
        assert plain[1] == same[1] == quarter[1] == 2 * half[1] == 1.0, "kB of a cached token"
        for _, _, bits, lost, *speeds in table:
            assert bits == pytest.approx(plain[2], rel=0.01) and abs(lost) < 1
            assert min(speeds) > 0
    assert "--file" in fails(main, "--weights", "somewhere")
    assert "window is 3, but must be a number from 8" in fails(main, "--window", 3)
    nowhere = ["--runs-dir", tmp_path / "nowhere"]  # what is quick to find is found first
    assert "No such file" in fails(main, *nowhere, "--file", tmp_path / "none")
    (tmp_path / "short").write_text("")
    assert "too short" in fails(main, *runs, "--file", tmp_path / "short")
