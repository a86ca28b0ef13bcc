"""One change to a file, drawn at random: what a bad disk, a broken transfer or bad intent may do.

Half of the changes are to bytes: bits, places where it is cut, doubled or filled. The others know
the format: a value in JSON becomes one of another type, a header tells of another length, and the
file around it is whole again. bench_hostile.py reads what comes out.
"""

import ast
import copy
import gzip
import hashlib
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

# Values in JSON, as they are written there: of every type, too large, too deep, not to be printed.
NUMBERS = ["0", "-1", "1", "2", "0.5", "-0.0", "NaN", "Infinity", "1e400", "-1e308", "255", "65536",
           "2147483647", "-2147483648", "9223372036854775808", "1" + 400 * "0", 5000 * "7"]
VALUES = [*NUMBERS, "null", "true", "false", '""', '"x"', '"0"', '"\\ud83d"', '"\\u0000"',
          '"a\\r\\nb"', '"\\u001b[2J\\u001b]0;title\\u0007"', '"../../x"', '"/dev/zero"',
          '"(?:a+)+b"', '"(a|aa)+$"',
          f'"{100_000 * "a"}"', "[]", "{}", "[[]]", '{"a": 1}', "[0, 0]",
          "[null]", "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000]
WHOLE = [b"", b"\0" * 1000, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
         b"<!doctype html>", b"\x1b[2J\x1b]0;title\x07", b"{}", b"[]", b"null", b"[" * 100_000]


class Change(NamedTuple):
    data: bytes
    words: str
    cut: bool = False  # the end is missing
    at: int = 0  # the first byte that may be another
    inside: bool = False  # made in a format's parts, around which the file is whole


def brief(value, most=40):
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


# ---- bytes ----
def change_bytes(rng, data):
    """A Change to any bytes."""
    n, way = len(data), rng.randrange(9)
    near = rng.choice((n, n, min(n, 100)))  # headers stand at the beginning, or at the end
    at = rng.randrange(near) if n else 0
    at = n - 1 - at if n and rng.random() < 0.3 else at
    size = min(n - at, int(2 ** rng.uniform(0, 10)))
    before, part, after = data[:at], data[at:at + size], data[at + size:]
    if way <= 1 and n:
        flipped = bytearray(data)
        places = [at, *(rng.randrange(n) for _ in range(rng.choice((0, 0, 0, 3))))]
        for place in places:
            flipped[place] ^= 1 << rng.randrange(8)
        return Change(bytes(flipped), f"a bit flipped at {places} of {n}", at=min(places))
    if way == 2:
        return Change(before, f"cut at {at} of {n}", cut=True, at=at)
    if way == 3:
        new = rng.choice((bytes(size), rng.randbytes(size), b"\x1b[2J", b"\xff\xfe", b"\r", b"\n"))
        return Change(before + new + data[at:], f"{brief(new)} inserted at {at}", at=at)
    if way == 4:
        return Change(before + after, f"{size} bytes left out at {at} of {n}", at=at)
    if way == 5:
        return Change(before + part + part + after, f"{size} bytes doubled at {at} of {n}", at=at)
    if way == 6:
        width = rng.choice("BHIQ")
        number = rng.choice((0, 1, 127, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -1))
        new = struct.pack(f"<{width}", number % (1 << 8 * struct.calcsize(width)))
        return Change(before + new + data[at + len(new):], f"{new.hex()} put at {at} of {n}", at=at)
    if way == 7:
        return Change(before + bytes(len(part)) + after, f"{size} zeros put at {at} of {n}", at=at)
    new = rng.choice([*WHOLE, b"\xef\xbb\xbf" + data])
    return Change(new, f"all of it replaced by {brief(new[:50])}", cut=not new)


# ---- trees: what JSON, a pickle or a row holds ----
def place(rng, tree):
    """(container, key) of a value in a tree of dicts and lists. Large parts are not drawn more than
    small ones: what stands alone says what the others mean.
    """
    container, key = tree, ""
    while isinstance(value := container[key], (dict, list)) and value and rng.random() < 0.85:
        container, key = value, rng.choice(list(value) if isinstance(value, dict)
                                           else range(len(value)))
    return container, key


class Raw(str):
    """JSON that stands for itself."""


def change_tree(rng, tree, value_of=Raw):
    """(a changed copy of a tree, in words what is other). value_of(JSON) -> a value in it."""
    tree = {"": copy.deepcopy(tree)}
    container, key = place(rng, tree)
    old, way = container[key], rng.randrange(8)
    where = f"{brief(key)}, which was {brief(container[key])},"
    if way == 0 and container is not tree:
        del container[key]
        return tree[""], f"{where} deleted"
    if way == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(old))
        return tree[""], f"{where} doubled"
    if way == 1 and container is not tree:
        new = rng.choice(("x", "\x1b[2J", key + "\n", key * 2))
        container[new] = container.pop(key)
        return tree[""], f"{where} under the key {brief(new)}"
    if way == 2:
        other, name = place(rng, tree)
        container[key] = copy.deepcopy(other[name])
        return tree[""], f"{where} replaced by {brief(container[key])}"
    if way == 3 and type(old) in (int, float):
        container[key] = rng.choice((old + 1, old - 1, -old, old * 2, old * 1000, float(old)))
        return tree[""], f"{where} now {container[key]}"
    if way == 3 and isinstance(old, str) and old:
        at = rng.randrange(len(old))
        container[key] = old[:at] + rng.choice(("", "\x1b[2J", "\n", "\udc80", "é", "a" * 30)) \
            + old[at + 1:]
        return tree[""], f"{where} now {brief(container[key])}"
    same_type = type(old) in (int, float) and rng.random() < 0.5
    new = rng.choice(NUMBERS if same_type else VALUES)
    if way == 4 and isinstance(container, dict) and container is not tree and value_of is Raw:
        container[key] = Raw(f"{json.dumps(old)}, {json.dumps(key)}: {new}")
        return tree[""], f"{where} and once more as {brief(new)}"
    container[key] = value_of(new)
    return tree[""], f"{where} replaced by {brief(new)}"


def to_json(tree):
    """A tree as JSON, with what is Raw in it."""
    raw = []

    def marked(value):
        if isinstance(value, Raw):
            raw.append(value)
            return f"\0{len(raw) - 1}\0"
        if isinstance(value, dict):
            return {key: marked(each) for key, each in value.items()}
        return [marked(each) for each in value] if isinstance(value, list) else value
    text = json.dumps(marked(tree))
    for i, value in enumerate(raw):
        text = text.replace(f'"\\u0000{i}\\u0000"', value)
    return text.encode()


def plain(value):
    """What JSON stands for, in Python; what Python can't read becomes something it can hold."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return [float("nan"), {1: (b"\xff", 10**30)}]


# ---- formats: each takes (rng, data) and returns (data, words), or raises what it can't do ----
def change_json(rng, data):
    tree, words = change_tree(rng, json.loads(data))
    return to_json(tree), words


def change_line(rng, data, change=change_json):
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    lines[i], words = change(rng, lines[i])
    return b"\n".join(lines), f"in line {i + 1} {words}"


def change_words(rng, data):
    """A line of words or of base64 with another word, or lines that are swapped or doubled."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    words, new = lines[i].split(b" "), rng.choice(VALUES + ["", "IQ== 1 1", " "]).encode()
    words[rng.randrange(len(words))] = new
    lines[i], kind = rng.choice(((b" ".join(words), f"has the word {brief(new)}"),
                                 (lines[j], f"is as line {j + 1}"), (new, f"is {brief(new)}")))
    return b"\n".join(lines), f"line {i + 1} {kind}"


def change_packed(name, unpack, pack):
    def change_it(rng, data):
        found = change(rng, name, unpack(data))
        return pack(found.data), f"unpacked: {found.words}"
    return change_it


def zstd(data):
    import zstandard
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def unzstd(data):
    import zstandard
    return zstandard.ZstdDecompressor().decompress(data)


def change_zip(rng, data):
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    i = rng.randrange(len(members))
    name, content = members[i]
    if rng.random() < 0.3:
        members[i] = rng.choice(("../x", "/x", name + "\x1b[2J", "x" * 300, name + "/")), content
        words = f"{name} is called {brief(members[i][0])}"
    else:
        found = change(rng, name, content)
        members[i], words = (name, found.data), f"in {name} {found.words}"
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members:
            new.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue(), words


def change_safetensors(rng, data):
    n, = struct.unpack("<Q", data[:8])
    header, words = change_json(rng, data[8:8 + n])
    return struct.pack("<Q", len(header)) + header + data[8 + n:], f"header: {words}"


def change_npy(rng, data):
    n, = struct.unpack("<H", data[8:10])
    key, new = rng.choice((("descr", "'|O'"), ("descr", "'<f8'"), ("descr", "'<i4'"),
                           ("descr", "'|S0'"), ("descr", "'<U99999999'"),
                           ("descr", "[('a', '<f4')]"),
                           ("shape", "(-1,)"), ("shape", "(1 << 50,)"), ("shape", "(10**15,)"),
                           ("shape", "()"), ("shape", "(0, 2**62)"), ("shape", "5"),
                           ("shape", "(1.5,)"), ("shape", "(" * 300), ("fortran_order", "7"),
                           ("x", "1")))
    header = ast.literal_eval(data[10:10 + n].decode())
    parts = {k: repr(v) for k, v in header.items()} | {key: new}
    text = f"{{{', '.join(f'{k!r}: {v}' for k, v in parts.items())}}}\n".encode()
    return data[:8] + struct.pack("<H", len(text)) + text + data[10 + n:], f"header: {key} {new}"


def change_pickle(rng, data):
    import torch
    tree = torch.load(io.BytesIO(data), weights_only=True)
    tensors = {"0": torch.zeros(3), "1": torch.empty(0), "2": torch.tensor(float("nan"))}
    tree, words = change_tree(rng, tree, lambda value: tensors.get(value, plain(value)))
    torch.save(tree, file := io.BytesIO())
    return file.getvalue(), words


def change_parquet(rng, data):
    import pyarrow
    import pyarrow.parquet
    rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    rows, words = change_tree(rng, rows, plain)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue(), words


def change_http(rng, data):
    """An answer of a server: a header that tells something else, or another body behind it."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    i = rng.randrange(len(lines) + 2)
    if i < len(lines):
        name, _, value = lines[i].partition(b": " if i else b" ")
        new = rng.choice((
            b"", b"-1", b"0", b"1", b"%d" % (len(body) + 9), b"9" * 30, b"x\x1b[2J", value * 2,
            b"bytes 0-9/10", b"bytes 9-1/99999999999", b"ftp://127.0.0.1/x", b"file:///etc/passwd",
            b"http://127.0.0.2:9/x", b"/loop", b"chunked", b'</tree?cursor=<n>>; rel="next"',
            b"500 no\x1b[2J", b"204 empty", b"206 part", b"301 gone", b"304 same", b"401 who",
            b"416 range", b"429 x"))
        name = rng.choice((name, name, name, b"Retry-After", b"Content-Encoding")) if i else name
        lines[i] = name + (b": " if i else b" ") + new
        words = f"header {lines[i]!r}"
    elif rng.random() < 0.4:
        pace = rng.choice((b"<forever>", b"<slowly>"))
        lines = [line for line in lines if not line.startswith(b"Content-Length")]
        body, words = body + pace, f"goes on {pace.decode()}"
    else:
        found = change(rng, "x.json" if body[:1] in b"[{" else "x", body)
        lines = [b"Content-Length: %d" % len(found.data) if line.startswith(b"Content-Length") else
                 line for line in lines]
        body, words = found.data, f"body: {found.words}"
    return b"\r\n".join(lines) + b"\r\n\r\n" + body, words


UNPACK = {".gz": gzip.decompress, ".zst": unzstd}
FORMATS = {
    ".json": change_json, ".jsonl": change_line, ".tiktoken": change_words, ".bpe": change_words,
    ".gz": change_packed("x.jsonl", gzip.decompress, lambda data: gzip.compress(data, mtime=0)),
    ".zst": change_packed("x.jsonl", unzstd, zstd),
    ".zip": change_zip, ".safetensors": change_safetensors, ".npy": change_npy,
    ".pt": change_pickle, ".parquet": change_parquet, ".http": change_http}


def change(rng, name, data):
    """A Change to the file `name`, which after it is another."""
    while True:
        found, knows = None, FORMATS.get(Path(name).suffix)
        if knows and rng.random() < 0.5:
            try:
                found = Change(*knows(rng, data), inside=True)
            except Exception:  # it is none of this format, or can't say that
                continue
        found = found or change_bytes(rng, data)
        if found.data != data:
            return found


# ---- checksums ----
def own_hash(content):
    """(the hash that a tokenizer.json of the course holds, what it should be); None for others."""
    try:
        content = json.loads(content)
        stored, _ = content.pop("hash"), content.pop("unicode", None)
        return stored, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, None


def is_covered(folder, name, old):
    """Whether a checksum of the file is written down, in it or in its folder."""
    stored, computed = own_hash(old)
    body = old.partition(b"\r\n\r\n")[2] if name.endswith(".http") else old
    sha256 = hashlib.sha256(body).hexdigest()
    return stored is not None and stored == computed or any(
        sha256 in path.read_text("latin-1") for path in folder.rglob("*")
        if path.suffix in (".json", ".http"))


def seal(folder, name, old, new):
    """Write the file's checksums anew, wherever they stand. Returns whether there were any."""
    before, after = own_hash(old)[0], own_hash(new)[1]
    swaps = {hashlib.sha256(old).hexdigest(): hashlib.sha256(new).hexdigest()}
    if before and after:
        (folder / name).write_text(json.dumps(json.loads(new) | {"hash": after}), "utf-8")
        swaps = {before: after}
    n = 0
    for path in folder.rglob("*.json"):
        text = path.read_text("latin-1")
        if path != folder / name and any(each in text for each in swaps):
            for each in swaps:
                text = text.replace(each, swaps[each])
            path.write_text(text, "latin-1")
            n += 1
    return n > 0 or swaps.keys() == {before}
