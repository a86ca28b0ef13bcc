"""Tests of timeline.py: what it draws is what happened."""

import functools

import pytest
import torch
import torch.distributed as dist

import timeline
from scale import make_buckets
from gpt import GPT, GPTConfig
from ranks import on_ranks
from timeline import Timeline, draw, lanes, main, record, watch_backward, watched_messages

SMALL = GPTConfig(vocab_size=64, seq_len=16, n_layer=3, n_head=2, n_kv_head=2, d_model=32, d_ff=64)
TIMELINES = {"naive": Timeline([("head", 0, 1.0), ("block 1", 1.0, 3.0)], [(8, 3.0, 4.0)], 4.1),
             "bucketed": Timeline([("head", 0, 1.0), ("block 1", 1.0, 3.0)],
                                  [(4, 1.0, 2.0), (4, 1.5, 3.5)], 3.6)}


def test_watch_backward():
    """From the last piece to the first, the clock never going back; removed, they are silent."""
    model, seen = GPT(SMALL), []
    hooks = watch_backward(model, seen)
    ids = torch.zeros(2, 16, dtype=torch.long)
    model.loss(ids, ids).mean().backward()
    names, times = zip(*seen)
    assert names == ("block 3", "block 2", "block 1", "embedding")
    assert list(times) == sorted(times)
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    model.loss(ids, ids).mean().backward()
    assert len(seen) == 4


def test_watched_messages():
    def work(rank):
        real = dist.all_reduce
        with watched_messages() as messages:
            one, two = torch.ones(3), torch.ones(5, dtype=torch.bfloat16)
            dist.all_reduce(one)
            dist.all_reduce(two, async_op=True).wait()
            dist.barrier()
        assert dist.all_reduce is real and one.tolist() == [2.0] * 3 and two.sum() == 10
        return messages
    for messages in on_ranks(work):
        assert [row[0] for row in messages] == [12, 10], "bytes, not numbers"
        assert all(start <= end for _, start, end in messages), "all are done"


def test_record():
    """Both ways send all gradients; naively after the backward pass, in buckets during it."""
    def work(rank):
        n_buckets = len(make_buckets(GPT(SMALL).parameters(), 20_000))
        return record(rank, SMALL, bucket_bytes=20_000, rounds=2), n_buckets
    n_bytes = 4 * sum(p.numel() for p in GPT(SMALL).parameters())
    for found, n_buckets in on_ranks(work):
        for name, (intervals, messages, end) in found.items():
            assert [p[0] for p in intervals] == [
                "head", "block 3", "block 2", "block 1", "embedding"]
            assert all(a[2] == b[1] for a, b in zip(intervals, intervals[1:])), "no gap between"
            assert sum(m[0] for m in messages) == n_bytes, "each gradient once"
            assert intervals[0][1] == 0 and end >= max(m[2] for m in messages) - 1e-3
        computed = found["naive"].intervals[-1][2]
        assert all(m[1] >= computed for m in found["naive"].messages)
        intervals, messages, _ = found["bucketed"]
        assert len(messages) == n_buckets > 2
        assert messages[0][1] < intervals[-1][1], "the first is on its way before the last piece"


def test_lanes():
    assert lanes([(1, 0, 5), (1, 2, 3), (1, 4, 9)]) == [0, 1, 1]
    assert lanes([(1, 0, 2), (1, 2, 3)]) == [0, 0] and lanes([]) == []
    rows = [(1, 0, 10), (1, 1, 4), (1, 2, 3), (1, 3, 9), (1, 5, 6)]
    assert lanes(rows) == [0, 1, 2, 2, 1]


def test_draw(tmp_path):
    for i, found in enumerate((TIMELINES, dict(reversed(TIMELINES.items())))):
        draw(found, tmp_path / f"{i}.png")
    one, two = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one.startswith(b"\x89PNG") and one != two


def test_command_line(tmp_path, capsys, fails, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(timeline, "on_ranks", lambda work: [TIMELINES])
    main(["--out", str(tmp_path)])
    assert (tmp_path / "timeline.png").stat().st_size > 10_000
    assert "backward 3000.0 ms, step 4100.0 ms, 1 messages" in capsys.readouterr().out
    assert "no folder" in fails(main, "--out", tmp_path / "nowhere")


@pytest.mark.slow
def test_under_torchrun(tmp_path, fork, torchrun, monkeypatch):
    monkeypatch.setattr(timeline, "record", functools.partial(record, shape=SMALL, rounds=1))
    process = fork(torchrun("--standalone", "--nproc-per-node", "2", timeline.__file__, "--out",
                            tmp_path))
    process.join()
    said = process.log.read_text()
    assert process.exitcode == 0, said
    assert said.count("timeline.png") == 1, "only rank 0 draws"
    assert (tmp_path / "timeline.png").exists()
