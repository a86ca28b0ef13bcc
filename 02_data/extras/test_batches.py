"""Tests of batches.py: every id in its place, once an epoch, for any ranks, and after a stop."""

import itertools
import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader

import data as spine
from batches import (SAMPLERS, Batches, BestFit, RandomWindows, Shuffled, StreamWindows,
                     best_fit, cut_off, next_source)
from bpe import Tokenizer
from data import Dataset, Ids, find_files, make_batches, write_folder
from mixtures import Mixture


def documents(lengths, masked=False):
    """Ids 0, 1, 2, ... of documents of these lengths."""
    ids = np.arange(sum(lengths))
    mask = (ids % 3 > 0).astype(np.uint8) if masked else None
    return Ids(ids, np.cumsum([0, *lengths[:-1]]), mask)


def mixture(*splits, shares=(1.0,)):
    parts = [SimpleNamespace(train=ids) for ids in splits]
    return SimpleNamespace(parts=list(zip(shares, parts, strict=True)), train=splits[0])


def some_lengths(seed, n=60):
    rng = np.random.default_rng(seed)
    return [int(length) for length in rng.geometric(0.08, n) + 1]


def test_random_windows_row():
    sampler = RandomWindows(documents([100]), 10, seed=7)
    for n in range(5):
        start = np.random.default_rng((7, n)).integers(0, 90)
        assert sampler.row() == [(start, 11)], f"window {n}"
    with pytest.raises(ValueError, match="8 tokens are too few"):
        RandomWindows(documents([8]), 8)


def test_shuffled_load_state_dict():
    one = Shuffled(7, seed=3)
    for stop in range(20):
        other = Shuffled(7, seed=3)
        other.load_state_dict(one.state_dict())
        assert [other.next() for _ in range(9)] == [one.next() for _ in range(9)], (
            f"restored after {stop} draws, it must go on in the order of that epoch")
        one.load_state_dict({"epoch": stop // 7, "place": stop % 7})


@pytest.mark.parametrize("n, seq_len", [(100, 10), (101, 10), (102, 10), (9, 10), (2, 1)])
def test_stream_windows_row(n, seq_len):
    sampler = StreamWindows(documents([n]), seq_len, seed=3)
    rows = -(-(n - 1) // seq_len)
    for epoch in range(3):
        spans = [sampler.row() for _ in range(rows)]
        targets = sorted(i for ((start, length),) in spans
                         for i in range(start + 1, start + length))
        assert targets == list(range(1, n)), "every id but the first is a target, once an epoch"
        assert sampler.epochs == epoch + 1
    orders = {tuple(sampler.row()[0][0] for _ in range(rows)) for _ in range(4)}
    assert rows < 5 or len(orders) > 1, "every epoch has another order"


def test_best_fit():
    assert best_fit([2, 3, 3, 9], 5) == 2, "the longest that fits; of equals the last"
    assert best_fit([2, 3, 3, 9], 9) == 3
    assert best_fit([2, 3, 3, 9], 1) == 0, "none fits: the shortest is cut"
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = sorted(rng.integers(1, 30, rng.integers(1, 9)).tolist())
        room = int(rng.integers(1, 30))
        fitting = [n for n in lengths if n <= room]
        i = best_fit(lengths, room)
        assert lengths[i] == (max(fitting) if fitting else min(lengths)), (lengths, room)


@pytest.mark.parametrize("seed", range(4))
def test_best_fit_windows(seed):
    lengths = some_lengths(seed)
    ids, T = documents(lengths), 16
    sampler, starts = BestFit(ids, T, seed, buffer=8), set(ids.starts.tolist())
    for epoch in (1, 2):
        seen, tokens, cropped = [], sampler.tokens, sampler.cropped
        while sampler.epochs < epoch:
            row = sampler.row()
            assert all(start in starts for start, _ in row), "every span begins a document"
            assert sum(n for _, n in row) == T + 1 or sampler.epochs == epoch, "windows are full"
            seen += [i for start, n in row for i in range(start, start + n)]
        assert len(seen) == len(set(seen)), "nothing comes twice in an epoch"
        assert {i for i in seen if i in starts} == starts, "every document comes"
        assert sampler.tokens - tokens == sum(lengths)
        assert len(seen) + sampler.cropped - cropped == sum(lengths), "what is cut off is counted"


def test_short_documents_fill_long_windows():
    """Though a window holds more of them than the buffer does."""
    sampler = BestFit(documents([3] * 1000), 100, buffer=8)
    rows = [sum(n for _, n in sampler.row()) for _ in range(29)]
    assert set(rows) == {101}, rows


def test_what_best_fit_loses_for_ever():
    sampler = BestFit(documents([5, 100, 20]), 9)
    assert sampler.lost == pytest.approx((90 + 10) / 125)
    config = SimpleNamespace(data=("a", "b"), seq_len=9)
    whole = BestFit(documents([5, 5]), 9)
    assert [*cut_off(config, [whole, sampler])] == [
        "bestfit    will never show 80% of b: what is behind the first 10 tokens of a document"]
    for _ in range(3):
        sampler.row()
    [line] = cut_off(config, [sampler, whole])
    assert line.startswith("bestfit    has cut off ") and line.endswith("tokens of a that came")


def test_best_fit_cuts_less_than_order_of_arrival():
    lengths, T = some_lengths(5, 2000), 64
    sampler = BestFit(documents(lengths), T, buffer=200)
    while sampler.epochs < 1:
        sampler.row()
    room, cropped = T + 1, 0
    for length in lengths:  # as they come
        cropped += max(0, length - room)
        room = room - length if length < room else T + 1
    assert sampler.cropped < cropped / 4, (sampler.cropped, cropped)


@pytest.mark.parametrize("shares", [(0.7, 0.3), (1.0,), (0.05, 0.05, 0.9), (1 / 3, 1 / 3, 1 / 3),
                                    (0.41, 0.29, 0.17, 0.08, 0.05),
                                    tuple(w / 6.9 for w in (1, 0.1, 3, 2, 0.3, 0.5))])
def test_next_source(shares):
    taken = [0] * len(shares)
    for k in range(1, 2001):
        taken[next_source(taken, shares)] += 1
        for count, share in zip(taken, shares):
            assert abs(count - share * k) < 1 - 1e-7, (
                f"after {k} rows {taken}: each must stay within one row of its share {shares}")
    assert next_source([1, 0], [0.7, 0.3]) == 0 and next_source([2, 0], [0.7, 0.3]) == 1, (
        "the source whose next row is due first: (taken + 1) / share is smallest")
    assert next_source([0, 14, 10], [0.03, 0.56, 0.41]) == 2, (
        "14 is the exact share of 25 rows, although 0.56 * 25 is 14.000000000000002")


def test_batches_read():
    a, b = documents([9, 11]), documents([30], masked=True)
    batches = Batches(mixture(a, b, shares=(0.5, 0.5)), 2, 5)
    inputs, targets = batches.read([(0, [(7, 4), (0, 2)]), (1, [(3, 6)]), (1, [(0, 3)])])
    assert inputs.shape == targets.shape == (3, 5) and inputs.dtype == targets.dtype == np.int64
    assert inputs[0].tolist() == [7, 8, 9, 10, 0], "spans follow each other"
    assert targets[0].tolist() == [8, 9, 10, 0, 1], "targets are one id further on"
    assert inputs[1].tolist() == [3, 4, 5, 6, 7]
    assert targets[1].tolist() == [4, 5, -1, 7, 8], "the mask moves along with the target"
    assert inputs[2].tolist() == [0, 1, 0, 0, 0] and targets[2].tolist() == [1, 2, -1, -1, -1], (
        "what fills up a row is not to be learned: its targets are -1")


def targets_of(batches, n):
    """All targets in the next n batches, sorted."""
    rows = [targets for _, targets in itertools.islice(batches, n)]
    return sorted(i for targets in rows for i in targets.flatten().tolist() if i >= 0)


@pytest.mark.parametrize("world, workers", [(1, 0), (2, 0), (3, 0), (1, 2), (2, 2)])
def test_every_token_once_per_epoch(world, workers):
    """The union over ranks and workers, though there are fewer documents than workers."""
    ids, T, B = documents([121]), 8, 5
    n_batches = 120 // T // B
    union = []
    for rank in range(world):
        batches = Batches(mixture(ids), B, T, 1, "stream", rank, world)
        if workers:
            batches = DataLoader(batches, batch_size=None, num_workers=workers)
        union.append(targets_of(batches, n_batches))
    assert sorted(itertools.chain(*union)) == list(range(1, 121)), (
        "every rank, and every worker, must read other rows, and together all of them")
    assert all(union), "every rank gets a part"


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_workers_and_ranks_see_the_batches_of_one_process(sampling):
    splits = documents(some_lengths(1)), documents(some_lengths(2), masked=True)

    def make(rank=0, world=1):
        return Batches(mixture(*splits, shares=(0.7, 0.3)), 4, 16, 5, sampling, rank, world)

    expected = list(itertools.islice(make(), 30))
    loader = DataLoader(make(), batch_size=None, num_workers=2)
    for (inputs, targets), (x, y) in zip(expected, loader):
        assert (inputs == x.numpy()).all() and (targets == y.numpy()).all()
    for n, rows in enumerate(zip(make(0, 3), make(1, 3), make(2, 3))):
        for (inputs, targets), rank in zip(rows, range(3)):
            assert (inputs == expected[n][0][rank::3]).all()
            assert (targets == expected[n][1][rank::3]).all()
        if n == 10:
            break


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_resume(sampling):
    """With exactly the next batch: in mid-epoch, mid-mixture, with buffered documents, and
    whatever the number of ranks before and after.
    """
    splits = documents(some_lengths(3)), documents(some_lengths(4, 20))

    def make(rank=0, world=1):
        return Batches(mixture(*splits, shares=(0.6, 0.4)), 3, 16, 5, sampling, rank, world)

    expected = list(itertools.islice(make(), 60))
    for stop in (0, 1, 7, 29, 50):
        before = make(1, 2)
        for _ in range(stop):
            next(before)
        state = json.loads(json.dumps(before.state_dict()))  # as a file would hold it
        assert json.loads(json.dumps(make().state_dict(ahead=stop))) == state
        for world in (1, 3):
            parts = [make(rank, world) for rank in range(world)]
            for part in parts:
                part.load_state_dict(state)
            for inputs, targets in expected[stop:stop + 10]:
                for rank, part in enumerate(parts):
                    x, y = next(part)
                    assert (x == inputs[rank::world]).all() and (y == targets[rank::world]).all(), (
                        f"resumed after {stop} batches, rank {rank} of {world} reads other rows: "
                        "its state_dict() must hold all that decides what follows")


@pytest.mark.parametrize("masked", [False, True])
def test_random_batches_are_those_of_data(masked):
    """With any number of ranks, after a stop, and from a DataLoader."""
    source = mixture(documents(some_lengths(1), masked))
    for world in (1, 3):
        for rank in range(world):
            ours = Batches(source, 4, 16, 5, "random", rank, world)
            theirs = spine.Batches(source, 4, 16, 5, rank, world)
            for n in range(12):
                if n == 5:
                    theirs.load_state_dict(theirs.state_dict())
                    ours.load_state_dict(ours.state_dict())
                for mine, other in zip(next(ours), next(theirs), strict=True):
                    assert (mine == other).all() and mine.dtype == other.dtype
            assert ours.epochs() == pytest.approx(theirs.epochs())
    loader = DataLoader(Batches(source, 4, 16, 5), batch_size=None, num_workers=2)
    for (x, y), (inputs, targets) in zip(itertools.islice(loader, 10),
                                         spine.Batches(source, 4, 16, 5)):
        assert (x.numpy() == inputs).all() and (y.numpy() == targets).all()


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat\n" * 50)
    files = find_files(f"folder:{tmp_path / 'text'}")
    write_folder("a", files, Tokenizer.train(["the cat sat on the mat\n"], 280), tmp_path / "out")
    return Dataset(tmp_path / "out")


def test_make_batches(prepared):
    """data.py has the usual case; these batches are for a mixture, or another sampling."""
    assert type(make_batches(prepared, 2, 8)) is spine.Batches
    assert type(make_batches(prepared, 2, 8, 0, "stream")) is Batches
    mixed = make_batches(Mixture([(1, prepared), (1, prepared)]), 4, 8, 3, "random", 1, 2)
    assert type(mixed) is Batches and (mixed.rank, mixed.world) == (1, 2)
    assert next(mixed)[0].shape == (2, 8)


@pytest.mark.parametrize("parts", [1, 2])
def test_what_travels_to_another_process_is_the_folder(prepared, parts):
    data = prepared if parts == 1 else Mixture([(0.3, prepared), (0.7, prepared)])
    batches = Batches(data, 2, 8, sampling="stream")
    pickled = pickle.dumps(batches)
    assert len(pickled) < 3000, "not the ids"
    again = pickle.loads(pickled)
    for _ in range(3):
        assert all((a == b).all() for a, b in zip(next(again), next(batches)))


def test_mixture_is_exact_in_any_window():
    a, b = documents([1000]), documents([1000])
    batches = Batches(mixture(a, b, shares=(0.7, 0.3)), 10, 8)
    sources = [source for _ in range(50) for source, _ in batches.rows()]
    for start in range(0, 450, 7):
        assert abs(sources[start:start + 50].count(0) - 35) < 2
    assert sources.count(0) == 350
    assert batches.epochs() == pytest.approx([350 * 8 / 1000, 150 * 8 / 1000])


def test_fewer_rows_than_ranks_are_refused():
    with pytest.raises(ValueError, match="batch_size is 2"):
        Batches(mixture(documents([100])), 2, 8, rank=0, world=3)
    for sampling in SAMPLERS:
        with pytest.raises(ValueError, match="seq_len is -3"):
            Batches(mixture(documents([100])), 2, -3, sampling=sampling)


def test_memory_stays_flat(tmp_path):
    """An epoch of 64 MB, with room for 24 MB of data beyond what the program itself takes."""
    np.save(tmp_path / "ids.npy", np.zeros(1 << 25, np.uint16))
    program = f"""
import resource, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
import numpy as np
from types import SimpleNamespace
from batches import Batches
from data import Ids
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status")
                if line.startswith("RssAnon"))
ids = Ids(np.load({str(tmp_path / "ids.npy")!r}, mmap_mode="r"), np.array([0]))
mixture = SimpleNamespace(parts=[(1.0, SimpleNamespace(train=ids))])
batches = Batches(mixture, 64, 4096, 0, "stream")
next(batches)
before = private()
limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
data = next(int(line.split()[1]) for line in open("/proc/self/status")
            if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((data + 24 * 1024) * 1024, limit))
while batches.epochs()[0] < 1:
    next(batches)
print((private() - before) // 1024)
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16, f"grew by {done.stdout} MB"
