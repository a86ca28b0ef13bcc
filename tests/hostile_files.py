"""A good example of every kind of file that is read here, and how the commands read it.

make_...(folder) writes an example, the same bytes each time; read_...(folder) reads it as commands
do and returns {name: what was read}, plain values, arrays and tensors, for bench_hostile.py to
compare. What commands print on the way is looked at there, too.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has one thread

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import matplotlib.figure  # noqa: F401, what functions import: loaded once, not in every fork
import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.backends.backend_svg  # noqa: F401
import matplotlib.ticker  # noqa: F401
import torch
import torch._dynamo  # noqa: F401, which every optimizer asks for

import bpe
import clean
import compare
import conversations
import corpus
import data
import download
import evals
import fast
import formats
import hub
import mapped
import mixtures
import page
import presets  # noqa: F401
import quant  # noqa: F401
import records
import report
import sample
import weights
from gpt import GPT
from mutations import zstd
from optim import make_optimizer
from records import library
from runs import (all_checkpoints, load_run, load_state, newest_checkpoint, restore_state, run_data,
                  save_checkpoint, tensors, val_of, write_config)
from train import Config
from writing import write_folder

pyarrow, _, safetensors, _, _ = (library(name, "bench.py hostile") for name in (
    "pyarrow", "pyarrow.parquet", "safetensors", "safetensors.torch", "zstandard"))
TEXT = "the cat sat on the mat, 12 of them; " + 40 * "a" + " naïve <|bos|> 🙂\n"
TEXTS = [f"{i} is the number of document {i}, {'spam ' * (i % 5)}eggs.\n" for i in range(60)]
ROWS = [{"text": text, "path": f"src/{i}.py", "license": ["mit"], "stars": i}
        for i, text in enumerate(TEXTS)]
CHATS = [{"messages": [{"role": "system", "content": "Be brief."},
                       {"role": "user", "content": f"What is {i} + 1?"},
                       {"role": "assistant", "content": [
                           {"type": "text", "text": "It is "}, {"type": "python", "text": f"{i}+1"},
                           {"type": "output", "text": str(i + 1)}]}]} for i in range(30)]
CHATS += [{"question": f"{i}?", "answer": f"<<{i}*2={2 * i}>>{2 * i}"} for i in range(5)]
TINY = dict(vocab_size=300, seq_len=32, n_layer=1, d_model=16, d_ff=32)


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tokenizer(kind=bpe.Tokenizer, **how):
    return kind.train(TEXTS + [TEXT], 300, **how)


# ---- tokenizers ----
def make_tokenizers(folder):
    tokenizer().save(folder / "tokenizer.json")
    moved = tokenizer(mapped.MappedTokenizer, special_tokens={"[PAD]": 0, "<|bos|>": 299})
    moved.save(folder / "mapped.json")
    formats.write_huggingface(moved, folder / "huggingface.json", "<|bos|>")
    gpt2 = tokenizer(pattern="gpt2", special_tokens=())
    formats.write_tiktoken(gpt2, folder / "r50k_base.tiktoken")
    letters = formats.byte_letters()
    written = ["".join(letters[byte] for byte in token) for token in gpt2.vocab]
    (folder / "encoder.json").write_text(json.dumps(
        {token: i for i, token in enumerate(written + ["<|endoftext|>"])}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(
        f"{written[a]} {written[b]}\n" for a, b in gpt2.merges), encoding="utf-8")


def used(one):
    ids = one.encode(TEXT)
    return {"ids": ids, "text": one.decode(ids), "vocab": one.vocab, "special": one.special}


def read_tokenizer(name):
    def read(folder):
        one = formats.load(folder / name)
        found = used(one)
        if name == "tokenizer.json":
            found["by hand"] = used(bpe.Tokenizer.load(folder / name)) == found
        formats.main(["import", str(folder / name), "--tokenizer", str(folder / "new.json")])
        bpe.main(["show", TEXT, "--tokenizer", str(folder / "new.json")])
        formats.write_huggingface(one, folder / "out.json")
        return found
    return read


# ---- sources ----
def make_sources(folder):
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, folder / "x.parquet")
    for name, content in (("x.jsonl", lines(ROWS)), ("chats.jsonl", lines(CHATS)),
                          ("x.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)),
                          ("x.jsonl.zst", zstd(lines(ROWS)))):
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "core.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in ("a", "b"):
            bundle.writestr(zipfile.ZipInfo(f"eval_bundle/eval_data/{name}.jsonl"), lines(
                {"query": f"{name}{i}", "choices": ["yes", "no"], "gold": 0} for i in range(20)))
    (folder / "texts").mkdir()
    for i, text in enumerate(TEXTS[:6]):
        (folder / "texts" / f"{i}.txt").write_text(text * 9)


def read_source(name):
    def read(folder):
        where = name.replace(":", f":{folder}/")
        found = list(corpus.find_source(where).documents())
        corpus.main([where])
        if "chats" in name:
            conversations.main([where])
            one = bpe.Tokenizer([])
            found += [conversations.render(record["messages"], one) for _, record in found
                      if "messages" in record]
        return {"documents": found}
    return read


def read_batches(folder):
    """From a source to a folder of ids and to a batch of them, as every training begins."""
    made = data.prepare([f"jsonl:{folder / 'x.jsonl'}"], 280, folder / "data", by_hand=True)
    return {"batch": next(data.make_batches(made, 2, 8)), "hash": made.hash}


def read_zip(folder):
    """By its text each document, as what a directory of members lacks no reader can know."""
    return {record["text"]: 1 for record in records.read_core(folder / "core.zip")}


# ---- what the course writes ----
def make_data(folder):
    (folder / "texts.jsonl").write_bytes(lines(ROWS + CHATS))
    source = corpus.find_source(f"jsonl:{folder / 'texts.jsonl'}")
    write_folder(source.__class__("texts", source.records, "hash", "0", 0.2), tokenizer(),
                 folder / "data")
    (folder / "texts.jsonl").unlink()
    clean.open_clean(CLEANED, {"min_bytes": ["1"]}, folder / "cleaned", say=lambda text: None)


CLEANED = corpus.Source("texts", lambda: iter(ROWS), "hash", "0")


def read_data(folder):
    found = mixtures.open_name(f"prepared:{folder / 'data'}")
    print(found)
    return {"ids": [(split.ids, split.starts, split.mask) for split in (found.train, found.val)],
            "hash": found.hash, "batches": [next(data.make_batches(
                found, 2, 8, sampling=way)) for way in ("random", "stream", "bestfit")],
            "tokenizer": used(found.tokenizer), "baselines": len(data.baselines(found))}


def read_cleaned(folder):
    found = clean.open_clean(CLEANED, {"min_bytes": ["1"]}, folder / "cleaned")
    return {"documents": list(found.documents())}


METRICS = [{"step": i, "loss": 5 / (i + 1), "grad_norm": 1.0, "lr": 0.1, "tokens": 64 * i,
            "seconds": 0.1 * i} for i in range(20)]
METRICS += [{"step": 10, "val_bits_per_byte": 3.0}, {"step": 20, "sample": "it wrote <b>"},
            {"step": 20, "update_ratio": {"embed": 0.01, "head": 0.02}},
            {"step": 0, "environment": {"python": "3.11", "torch": "2"}, "parameters": 1000},
            {"step": 20, "val_bits_per_byte": 2.5, "baselines": {"zlib -9": 3.0, "uniform": 8.0}}]


report.picture([METRICS], "svg")  # loads fonts: once, too


def make_run(folder):
    make_data(folder)
    found, config = data.Dataset(folder / "data"), Config(data=("texts",), device="cpu", **TINY)
    (run := folder / "run").mkdir()
    write_config(run, config, found)
    model = config.make_model(found.tokenizer.vocab_size)
    torch.manual_seed(0)
    optimizer, loader = make_optimizer(model, config), data.make_batches(found, 2, 32)
    for step in (2, 4):
        x, y = map(torch.from_numpy, next(loader))
        model.loss(x, y).mean().backward()
        optimizer.step()
        save_checkpoint(run, step, tensors(model), {
            "step": step, "seconds": 1.0, "optimizer": optimizer.state_dict(),
            "loader": loader.state_dict(), "data": found.hash,
            "rng": torch.get_rng_state()}, 2, 5.0 - step / 4)
    (run / "metrics.jsonl").write_bytes(lines(METRICS))


def sampled(*arguments):
    with contextlib.redirect_stdout(io.StringIO()):  # a model may say anything
        sample.main([*arguments, "--tokens", "3", "--prompt", "the"])


def read_run(folder):
    """As sample.py and report.py do, and as a trainer that goes on. A validation result that can't
    be trusted may be forgotten.
    """
    run = folder / "run"
    for line in compare.listing(folder):
        print(line)
    model, one, config, step = load_run(run)
    found = {"weights": dict(model.state_dict()), "tokenizer": used(one), "step": step,
             "config": config, "data": run_data(run).hash,
             **{f"val {path.name}": val_of(path) for path in all_checkpoints(run)
                if val_of(path) < float("inf")}}
    sampled("--runs-dir", str(folder), "--run", "run")
    return found


def read_state(folder):
    run = folder / "run"
    model, one, config, _ = load_run(run)
    made = data.Dataset(folder / "data")
    found = {"state": (state := load_state(newest_checkpoint(run)))}
    optimizer, loader = make_optimizer(model, config), data.make_batches(made, 2, 32)
    restore_state(dict(state), optimizer=optimizer, loader=loader)
    x, y = map(torch.from_numpy, next(loader))
    model.loss(x, y).mean().backward()
    optimizer.step()
    return found


def read_evals(folder):
    evals.main(["--runs-dir", str(folder), "--run", "run"])
    return {}


def read_report(folder):
    page.page([folder / "run"], folder / "report.html")
    return {}


# ---- weights ----
def make_weights(folder):
    torch.manual_seed(0)
    one = tokenizer(fast.FastTokenizer)
    model = GPT(Config(**TINY).gpt(one.vocab_size))
    torch.nn.init.normal_(model.head.weight)
    weights.export(model, one, folder / "whole")
    shutil.copytree(folder / "whole", folder / "shards")
    (whole := folder / "shards" / "model.safetensors")
    found = safetensors.torch.load_file(whole)
    whole.unlink()
    parts, names = {"a": {}, "b": {}}, {}
    for i, name in enumerate(sorted(found)):
        names[name] = f"model-{'ab'[i % 2]}.safetensors"
        parts["ab"[i % 2]][name] = found[name]
    for part, content in parts.items():
        safetensors.torch.save_file(content, folder / "shards" / f"model-{part}.safetensors",
                                    {"format": "pt"})
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": names}))


def read_weights(name):
    def read(folder):
        options = SimpleNamespace(weights=folder / name, run=None, checkpoint="newest")
        _, model, one, config, _ = weights.open_model(options)
        weights.main([str(folder / name)])
        sampled("--weights", str(folder / name))
        return {"weights": dict(model.state_dict()), "config": config, "tokenizer": used(one)}
    return read


# ---- the network: a server in a thread, and a clock on which waiting takes no time ----
BODY = bytes(range(256)) * 40
COMMIT = "c0ffee" * 6 + "1234"
ROUTES = (("/revision/", "revision"), ("cursor=", "second"), ("/tree/", "first"), ("/cdn/", "body"),
          ("b.bin", "redirect"), ("a.txt", "small"), ("/part", "part"))


def answer(body, code="200 OK", **headers):
    headers |= {"Content-Length": len(body), "Content-Type": "text/plain"}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code}\r\n{head}\r\n".encode() + body


def make_answers(folder):
    sha, place = hashlib.sha256(BODY).hexdigest(), f"/api/datasets/some/set/tree/{COMMIT}/data"
    first = [{"type": "directory", "path": "data/go", "size": 0, "oid": "1"},
             {"type": "file", "path": "data/b.bin", "size": len(BODY), "oid": "2",
              "lfs": {"oid": sha, "size": len(BODY), "pointerSize": 134}}]
    second = [{"type": "file", "path": "data/a.txt", "size": len(TEXT.encode()), "oid": "3"}]
    for name, content in {
            "revision": answer(json.dumps({"sha": COMMIT}).encode()),
            "first": answer(json.dumps(first).encode(), Link=f'<{place}?cursor=1>; rel="next"'),
            "second": answer(json.dumps(second).encode()),
            "redirect": answer(b"", "302 Found", Location="/cdn/b"),
            "body": answer(BODY, ETag='"v1"'), "small": answer(TEXT.encode(), ETag='"v2"'),
            "part": answer(BODY[1000:], "206 Partial Content", ETag='"v1"', Content_Range=
                           f"bytes 1000-{len(BODY) - 1}/{len(BODY)}")}.items():
        (folder / f"{name}.http").write_bytes(content)
    files = [["data/a.txt", len(TEXT.encode()), None], ["data/b.bin", len(BODY), sha]]
    (folder / "listing.json").write_text(json.dumps({
        "repo": "some/set", "folder": "data", "revision": "main", "commit": COMMIT,
        "files": files}))
    (folder / "x.part").write_bytes(BODY[:1000])
    (folder / "x.part.etag").write_text('"v1"')


@contextlib.contextmanager
def server(folder):
    """The address of a server that answers with the .http files of a folder."""
    listener, offset, clock = socket.create_server(("127.0.0.1", 0)), [0.0], time.monotonic

    def wait(seconds):
        offset[0] += seconds

    def pour(connection, rest):
        """What has no end: at most a gigabyte and a half, or two weeks."""
        if rest.endswith(b"<forever>"):
            for _ in range(1500):
                connection.sendall(rest[-1000:] * 1000)
        elif rest.endswith(b"<slowly>"):
            for _ in range(600_000):
                connection.sendall(b"zz")
                wait(1)

    def serve():
        for n in range(1_000_000):
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                asked = b""
                while b"\r\n\r\n" not in asked and (more := connection.recv(65536)):
                    asked += more
                path = asked.split(b" ")[1].decode() if b" " in asked else ""
                name = next((name for part, name in ROUTES if part in path), "none")
                name = "body" if name == "part" and b"\r\nRange:" not in asked else name
                found = folder / f"{name}.http"
                content = found.read_bytes() if found.exists() else answer(b"", "404 Not Found")
                connection.sendall(content.replace(b"<n>", b"%d" % n))
                pour(connection, content)

    def look_up(host, *more, find=socket.getaddrinfo, **how):
        if not str(host).startswith("127."):  # no one else is to be asked
            raise socket.gaierror(f"there is no {host!r}")
        return find(host, *more, **how)

    time.sleep, time.monotonic, socket.getaddrinfo = wait, lambda: clock() + offset[0], look_up
    download.LARGEST = 10**6  # what is waited for until it is too much
    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def read_hub(folder):
    with server(folder) as host:
        listed = hub.hub_files("some/set", "data", host=host, cache=folder / "files.json")
        paths = hub.fetch_all(listed, folder / "down")
        return {file.path: (file[:3], path.read_bytes() if file.sha256 else path.stat().st_size)
                for file, path in zip(listed, paths)}


def read_listing(folder):
    listed = hub.hub_files("some/set", "data", cache=folder / "listing.json")
    return {file.path: file for file in listed}


def read_rest(folder):
    with server(folder) as host:
        path = download.fetch(host + "/part", folder / "x", hashlib.sha256(BODY).hexdigest())
        assert path.read_bytes() == BODY, "accepted though changed: its checksum is known"
        return {}
