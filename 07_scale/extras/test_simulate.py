"""Tests of simulate.py: closed forms where there are some, laws where there are none."""

import random

import pytest

import simulate
from budget import flops_per_token
from family import n_parameters
from gpt import GPTConfig
from plan import CLUSTERS, TRAFFIC, VOLUME
from presets import ALL as PRESETS, FullConfig as Config
from simulate import (CHECKED, ENGINES, Layer, Task, assumptions, check, draw_scaling, efficiency,
                      main, message_seconds, layers, predict, ring_seconds, scaling, schedule,
                      step_seconds, step_tasks)

A100 = CLUSTERS["a100"]
SMALL = [Layer(0, [60]), Layer(10, [30, 10]), Layer(10, [30, 10]), Layer(5, [60])]


def test_ring_seconds():
    """Against rounds that are gone through: every rank sends one part in each."""
    assert ring_seconds(1000, 4, 100, 1) == 21.0, (
        "2 * (4 - 1) rounds, in each of which a quarter of the message is sent, after the latency")
    for ranks in (1, 2, 3, 8):
        clock = 0.0
        for _ in ["sum"] * (ranks - 1) + ["hand round"] * (ranks - 1):
            clock += 0.5 + 600 / ranks / 20
        assert ring_seconds(600, ranks, 20, 0.5) == pytest.approx(clock), f"{ranks} ranks"
    assert ring_seconds(1e9, 1, 1, 1) == 0, "one rank alone has nobody to send to"
    assert ring_seconds(1e9, 10**6, 1e9, 0) == pytest.approx(2, rel=1e-5), "never more than twice"


def test_message_seconds():
    def seconds(world, kind="all-reduce", cluster=A100):
        return message_seconds(kind, 1e9, world, cluster)
    assert seconds(1) == 0
    assert seconds(8) == ring_seconds(1e9, 8, 300e9, 10e-6), "inside a node"
    assert seconds(32) == seconds(8) + ring_seconds(1e9, 4, 50e9, 10e-6), "4 nodes"
    single = A100._replace(node=1)
    assert seconds(32, cluster=single) == ring_seconds(1e9, 32, 50e9, 10e-6), "no bus"
    for world in (8, 64):
        halves = seconds(world, "reduce-scatter"), seconds(world, "all-gather")
        assert sum(halves) == pytest.approx(seconds(world)) and halves[0] == halves[1]
    with pytest.raises(ValueError, match="12 GPUs do not fill nodes of 8"):
        seconds(12)


@pytest.mark.parametrize("name", ["nano", "1b", "gpt2", "smollm2-135m", "llama-7b"])
def test_pieces(name):
    """Nothing is forgotten, nothing counts twice."""
    config = Config(**PRESETS[name]).gpt(PRESETS[name].get("vocab_size"))
    found = layers(config)
    assert len(found) == config.n_layer + 2 and found[0].flops == 0
    assert sum(n for layer in found for n in layer.tensors) == 4 * n_parameters(config)
    assert 3 * sum(layer.flops for layer in found) == flops_per_token(config) * config.seq_len
    assert len({layer for layer in [(p.flops, *p.tensors) for p in found[1:-1]]}) == 1, "blocks"


def test_schedule():
    assert schedule([Task("a", 3, ()), Task("b", 2, (0,)), Task("a", 4, ()),
                     Task("b", 1, (2,))]) == [(0, 3), (3, 5), (3, 7), (7, 8)], (
        "a task starts when its own lane is free and what it needs has ended, and not later")
    assert schedule([]) == []
    late = [Task("a", 5, ()), Task("b", 1, (0,)), Task("b", 1, ())]
    assert schedule(late)[2] == (6, 7), "a lane does not let a task overtake"
    both = [Task("a", 5, ()), Task("b", 2, ()), Task("c", 1, (0, 1))]
    assert schedule(both)[2] == (5, 6), "it needs both"


def test_schedule_keeps_its_rules():
    """Of random tasks: none overlaps another of its lane, none is early, none waits for nothing."""
    rng = random.Random(0)
    for _ in range(50):
        tasks = [Task(rng.choice("abc"), rng.randrange(5),
                      tuple(rng.sample(range(i), min(i, rng.randrange(3))))) for i in range(20)]
        times = schedule(tasks)
        for i, ((lane, seconds, needs), (start, end)) in enumerate(zip(tasks, times)):
            before = [times[j][1] for j in range(i) if tasks[j].lane == lane]
            assert end == start + seconds and start == max(
                [0, *before, *(times[j][1] for j in needs)])


def total(engine, micro_batches=(1,), rate=1.0, bandwidth=1.0, latency=0.0, network="network"):
    """Seconds of a step of the small model, whose messages take bytes / bandwidth each way."""
    return step_seconds(engine, SMALL, lambda flops: flops / rate,
                        lambda kind, n: VOLUME[kind] * (n / bandwidth + latency), micro_batches,
                        network)


def test_naive_is_a_sum():
    """Nothing overlaps: three times forward, then each of the 6 messages."""
    for windows in ((1,), (2,), (1, 1), (2, 1)):
        assert total("naive", windows, latency=0.5) == pytest.approx(
            3 * 25 * sum(windows) + 2 * (200 + 6 * 0.5))


def test_overlap_by_hand():
    """Backward: head 10, blocks 20 and 20, embedding 0, after 25 of forward. Messages of
    120, 80, 80 and 120: the network works without a pause, from when the head is done."""
    assert total("ddp") == 25 + 10 + 400
    assert total("ddp", bandwidth=20) == 25 + 10 + 20 + 20 + 4 + 6, "computing without a pause"
    assert total("ddp", network="compute") == 75 + 400, "one lane: nothing overlaps"
    assert total("zero1") == 25 + 10 + 200 + 200, "scattered on the way, gathered at the end"
    assert total("zero1", bandwidth=20) == 25 + 10 + 20 + 20 + 2 + 3 + 10
    assert total("zero2") == total("zero1"), "the same, if there is one micro-batch"


def test_fsdp2_by_hand():
    """Gathers of 3, 2, 2, 3 at a bandwidth of 20; computing 0, 10, 10, 5, then 10, 20, 20, 0. It
    waits for the first two gathers, all others are done in time; then the last two scatters."""
    assert total("fsdp2", bandwidth=20) == 3 + 2 + 25 + 50 + 2 + 3


def bytes_of(engine, micro_batches):
    """How much a GPU sends, in units of the model's size: an all-reduce is two."""
    tasks = step_tasks(engine, SMALL, lambda flops: 0, lambda kind, n: VOLUME[kind] * n,
                       micro_batches)
    return sum(task.seconds for task in tasks if task.lane == "network") / 200


def test_what_is_sent():
    """ZeRO-1 sends what data parallel does, ZeRO-3 half as much again (Rajbhandari et al. 2020,
    section 7), but for the head, which is still there when its backward pass begins."""
    for engine, one, three in (("naive", 2, 2), ("ddp", 2, 2), ("zero1", 2, 2), ("zero2", 2, 4),
                               ("fsdp2", 3 - 0.3, 9 - 0.9)):
        assert bytes_of(engine, [1]) == pytest.approx(one), engine
        assert bytes_of(engine, [1, 1, 1]) == pytest.approx(three), f"{engine}, three micro-batches"
        once, often = (sum(map(VOLUME.get, kinds)) for kinds in TRAFFIC.get(engine, [["all-reduce"],
                                                                                     []]))
        head = 0.3 * (engine == "fsdp2")
        assert bytes_of(engine, [1] * 5) == pytest.approx(once + 5 * (often - head)), (
            f"{engine}: plan.py says otherwise")


@pytest.mark.parametrize("engine", ENGINES)
def test_laws(engine):
    """Computing and sending are conserved; a step is as long as either at least, and as both
    together at most; more bandwidth never hurts."""
    micro_batches = [2, 2, 1]
    tasks = step_tasks(engine, SMALL, lambda flops: flops, lambda kind, n: VOLUME[kind] * n,
                       micro_batches)
    lanes = {lane: sum(task.seconds for task in tasks if task.lane == lane)
             for lane in ("compute", "network")}
    assert lanes["compute"] == pytest.approx(3 * 25 * 5)
    assert max(lanes.values()) <= total(engine, micro_batches) <= sum(lanes.values()) + 1e-9
    assert total(engine, micro_batches, network="compute") == pytest.approx(sum(lanes.values()))
    assert total(engine, micro_batches, bandwidth=1e12) == pytest.approx(3 * 25 * 5)
    assert total(engine, micro_batches, rate=1e12) == pytest.approx(lanes["network"])
    times = [total(engine, micro_batches, bandwidth=2**i) for i in range(10)]
    assert times == sorted(times, reverse=True)


def test_never_more_than_two_pieces_are_gathered():
    """A piece's weights take room from when its gather starts until it is computed."""
    tasks = step_tasks("fsdp2", SMALL, lambda flops: 7, lambda kind, n: 1, [1, 1])
    times = schedule(tasks)
    gathers = [i for i, task in enumerate(tasks) if task.lane == "network" and any(
        i in later.needs for later in tasks)]
    spans = [(times[i][0], next(times[j][1] for j, task in enumerate(tasks) if i in task.needs))
             for i in gathers]
    assert len(gathers) == 2 * (2 * len(SMALL) - 1)
    for start, _ in spans:
        assert sum(a <= start < b for a, b in spans) <= 2


def test_efficiency():
    model = layers(Config(**PRESETS["small"]).gpt(32768))
    free = A100._replace(bus=1e30, network=1e30, latency=0.0)
    for engine in ENGINES:
        def of(windows, world, cluster=A100):
            return efficiency(engine, model, windows, world, cluster, 0.4, micro_batch=4)
        assert of(4, 1) == pytest.approx(1), "alone nobody waits"
        assert of(256, 64, free) == pytest.approx(1), "nor where messages take no time"
        assert of(66, 64, free) == pytest.approx(66 / 128), "two ranks have a window more"
        assert of(32, 64, free) == pytest.approx(0.5), "half of them have none"
        assert 0 < of(256, 64) < of(32, 8) < 1, "between nodes it is slower"
    naive, zero1, ddp = (efficiency(engine, model, 256, 64, A100, 0.4, 4)
                         for engine in ("naive", "zero1", "ddp"))
    assert naive < zero1 < ddp


def test_predict():
    """From made-up measurements whose answer is known: 1 GB/s, 100 us, no time for anything else
    but 0.3 s of computing."""
    seconds = {"nothing": 0.001, "computing": 0.301, "small": 0.001 + 200e-6,
               "large": 0.001 + 200e-6 + simulate.LARGE / 1e9}
    bandwidth, latency, predicted = predict(seconds, CHECKED)
    assert bandwidth == pytest.approx(1e9) and latency == pytest.approx(100e-6)
    n = n_parameters(CHECKED)
    messages = 4 * CHECKED.n_layer + 2
    assert predicted["naive"] == pytest.approx([0.301 + 4 * n / 1e9 + messages * 200e-6] * 2)
    apart, together = predicted["ddp"]
    assert 0.301 < apart < together < predicted["naive"][0]


def test_check(monkeypatch, capsys):
    """It runs, on a model so small that nothing can be said about how right it is."""
    monkeypatch.setattr(simulate, "LARGE", 400_000)
    check(GPTConfig(vocab_size=64, seq_len=8, n_layer=1), rounds=2)
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[-3:-1]] == ["naive", "ddp"]


def test_command_line(tmp_path, capsys, fails):
    main(["--preset", "nano", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "40% of 312 TFLOP/s" in out and out.count("1,024 GPUs") == 2
    assert "no folder" in fails(main, "--out", tmp_path / "nowhere")
    assert "utilisation is 1.5" in fails(main, "--utilisation", "1.5")
    assert "micro_batch is 0" in fails(main, "--micro-batch", "0")
    assert len(assumptions(A100, 0.4, 4)) == 8


def test_draw_scaling(tmp_path):
    """Two clusters, two pictures."""
    model, found = layers(Config(**PRESETS["nano"]).gpt(512)), []
    for cluster in CLUSTERS.values():
        curves = scaling(model, 8, cluster, 0.4, 1)
        assert set(curves) == {"weak", "strong"} and set(curves["weak"]) == set(ENGINES)
        draw_scaling(curves, {"weak": {"a node": 8}, "strong": {}}, "spam", tmp_path / "a.png")
        found.append((tmp_path / "a.png").read_bytes())
    assert found[0] != found[1]
