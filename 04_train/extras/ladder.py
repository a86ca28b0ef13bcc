"""What loss would a larger model, or a longer run, reach? A scaling law, fitted to small runs.

The four smallest rungs of the ladder are trained with every budget of FLOPs. The law L = E + A /
N^alpha + B / D^beta (Hoffmann et al. 2022, section 3.3, their third approach) is fitted to the
losses: E is the loss of a perfect model, the other terms are due to too few parameters N and too
few tokens D. The law gives the best split of a budget, and an extrapolation beyond the rungs.
The loss is bits per byte of the whole validation text. All rungs share a tokenizer and a window
(SHARED), so nats per token would only multiply E, A and B. N leaves out the embedding table, in
which rows are looked up, not multiplied. The law counts 6 N D FLOPs; attention adds to that, most
in small models, so the table has both.
Left out: learning rates tuned for each rung, and texts that are read more than once: the law
assumes that every token is new.

    python 04_train/extras/ladder.py --flops 2e12 5e12 1.25e13
    python 04_train/extras/ladder.py --flops 2e12 5e12 1.25e13 --optimizer adamw --runs-dir adamw

Every other option is train.py's. Writes a run folder for each point, and ladder.png beside them;
what is finished is not trained again. Next: 05_sample/sample.py.
"""

import itertools
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, run

import torch
import torch.nn.functional as F

import train
from bpe import Tokenizer
from budget import count_parameters, flops_per_token
from curves import COLOURS, INK, picture
from metrics import read_metrics
from resuming import check_changes, find_run
from runs import read_config
from train import LADDER, Config, depth_preset

RUNGS = list(LADDER)[:4]
# For all runs, so that losses compare and small budgets have steps; the user's options come later.
SHARED = ("--vocab-size", "2048", "--seq-len", "128", "--batch-size", "8", "--micro-batch", "8",
          "--warmup", "5", "--momentum", "0.95", "--bigrams", "0",  # which tiny has tuned
          "--eval-every", "1000000", "--save-every", "1000000")
DELTA = 1e-3  # of the Huber loss: errors above 0.1% have no more influence than 0.1%
N_STARTS = 50  # the best of the grid: 400 found nothing better for ten noisy laws
LEAST = 6  # points: five parameters fit any five points exactly


# ---- the law ----
class Law(NamedTuple):
    """The five numbers of L = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float


def predicted(n, d, parameters):  # exercise
    """The loss of a model of n parameters after d tokens: E + A / n^alpha + B / d^beta
    (Hoffmann et al. 2022, equation 2).

    n, d: numbers or arrays. parameters: a Law.
    With their E = 1.69, A = 406.4, B = 410.7, alpha = 0.34, beta = 0.28, Chinchilla (70e9
    parameters, 1.4e12 tokens) has 1.69 + 0.0834 + 0.1631 = 1.937.
    """
    E, A, B, alpha, beta = parameters
    return E + A / n**alpha + B / d**beta


def best_split(flops, parameters):  # exercise
    """(N, D) with the smallest predicted loss of all for which 6 N D = flops (Hoffmann et al. 2022,
    equation 4).

    With G = (alpha A / (beta B))^(1 / (alpha + beta)):
    N = G (flops / 6)^(beta / (alpha + beta)),  D = (flops / 6)^(alpha / (alpha + beta)) / G.
    Where alpha = beta and A = B, both are sqrt(flops / 6). parameters: a Law, alpha and beta above
    0.
    """
    _, A, B, alpha, beta = parameters
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return (G * (flops / 6) ** (beta / (alpha + beta)),
            (flops / 6) ** (alpha / (alpha + beta)) / G)


# ---- fitting it ----
def residuals(theta, points):
    """The errors of S laws at P points, log predicted - log observed, (S, P), and their derivatives
    by theta, (S, P, 5).

    theta: (S, 5), a law as log A, log B, log E, alpha, beta, so that A, B and E stay positive;
    points: (P, 3), N, D and loss. float64.
    """
    n, d, loss = points.log().unbind(-1)  # (P,)
    a, b, e, alpha, beta = theta.T.unsqueeze(-1)  # (S, 1)
    terms = torch.stack((a - alpha * n, b - beta * d, e + 0 * n), dim=-1)  # logs, (S, P, 3)
    of_n, of_d, of_e = terms.softmax(dim=-1).unbind(-1)  # each term's share of the loss
    slopes = torch.stack((of_n, of_d, of_e, -n * of_n, -d * of_d), dim=-1)
    return terms.logsumexp(dim=-1) - loss, slopes


def misfit(errors, counts):
    """The quantity that fit() minimises: the sum of the points' Huber losses (Huber 1964). errors:
    (S, P); counts: (P,) or (S, P), how often each point counts -> (S,).
    """
    losses = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=DELTA)
    return (counts * losses).sum(dim=-1)


def descend(theta, points, counts, steps=300):
    """Improve S laws, (S, 5) -> (S, 5), each from its own start nearly to a minimum of misfit().

    Levenberg 1944, Marquardt 1963: where errors are nearly linear in theta, least squares give the
    step. Damping shortens it, less after a step that helped, more after one that did not and is
    undone. Huber's loss is least squares in which a point far off has a smaller weight.
    """
    damping = torch.ones(len(theta), 1, dtype=theta.dtype)
    errors, slopes = residuals(theta, points)
    for _ in range(steps):
        weights = counts * DELTA / errors.abs().clamp(min=DELTA)  # (S, P)
        weighted = (weights.unsqueeze(-1) * slopes).mT  # (S, 5, P)
        squares = weighted @ slopes  # (S, 5, 5)
        extra = damping * squares.diagonal(dim1=1, dim2=2) + 1e-12  # also where a slope is 0
        tried = theta - torch.linalg.solve(squares + extra.diag_embed(),
                                           (weighted @ errors.unsqueeze(-1)).squeeze(-1))
        new_errors, new_slopes = residuals(tried, points)
        better = (misfit(new_errors, counts) < misfit(errors, counts)).unsqueeze(-1)
        theta, errors = torch.where(better, tried, theta), torch.where(better, new_errors, errors)
        slopes = torch.where(better.unsqueeze(-1), new_slopes, slopes)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-9, 1e9)
    return theta


def starts():
    """Where descend() may start: the grid of Hoffmann et al. 2022, appendix D.2, (4500, 5)."""
    few, exponents = range(0, 30, 5), (0, 0.5, 1, 1.5, 2)
    grid = itertools.product(few, few, (-1, -0.5, 0, 0.5, 1), exponents, exponents)
    return torch.tensor(list(grid), dtype=torch.float64)


def as_law(theta):
    a, b, e, alpha, beta = theta.tolist()
    return Law(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def fit(points):
    """The Law of the smallest misfit() to the points [(N, D, loss), ...]: the best result of
    descend() from the N_STARTS best starts. ValueError if there are fewer points than LEAST.
    """
    if len(points) < LEAST:
        raise ValueError(f"{len(points)} points are too few for a law of 5 numbers; give {LEAST}")
    points, once = torch.tensor(points, dtype=torch.float64), torch.ones(len(points))
    theta = starts()
    theta = theta[misfit(residuals(theta, points)[0], once).argsort()[:N_STARTS]]
    theta = descend(theta, points, once)
    return as_law(theta[misfit(residuals(theta, points)[0], once).argmin()])


def bootstrap(points, law, rounds=200, seed=0):
    """Laws fitted to resampled points, which show how far the law depends on chance (Efron 1979):
    each starts from `law`, with as many points, drawn with replacement.
    """
    P, (E, A, B, alpha, beta) = len(points), law
    drawn = torch.randint(P, (rounds, P), generator=torch.Generator().manual_seed(seed))
    counts = F.one_hot(drawn, P).sum(dim=1)  # (rounds, P)
    start = torch.tensor([math.log(A), math.log(B), math.log(E), alpha, beta], dtype=torch.float64)
    theta = descend(start.repeat(rounds, 1), torch.tensor(points, dtype=torch.float64), counts)
    return [as_law(row) for row in theta]


def middle(values):
    """(low, high), between which 80% of the values lie."""
    return torch.tensor(values).quantile(torch.tensor([0.1, 0.9])).tolist()


# ---- the points ----
class Point(NamedTuple):
    """A finished run: N, D, bits per byte, and the FLOPs it really took."""

    n: int
    d: int
    loss: float
    flops: float


def read_point(folder):
    """The Point of a run; None if the run is not finished."""
    metrics = folder / "metrics.jsonl"
    ends = [m for m in read_metrics(metrics) if "baselines" in m] if metrics.exists() else []
    if not ends:
        return None
    config, vocab_size = read_config(folder), Tokenizer.load(folder / "tokenizer.json").vocab_size
    model_config = config.gpt(vocab_size)
    parameters = count_parameters(model_config)
    d = ends[-1]["step"] * config.batch_size * config.seq_len
    return Point(sum(parameters.values()) - parameters["embedding"], d,
                 ends[-1]["val_bits_per_byte"], d * flops_per_token(model_config))


def same_text(folders):
    """ValueError unless these runs had one source and one tokenizer."""
    seen = {(read_config(f).data, Tokenizer.load(f / "tokenizer.json").hash): f for f in folders}
    if len(seen) > 1:
        one, other, *_ = seen.values()
        raise ValueError(f"{one} and {other} had different data, or another tokenizer, so that "
                         "their losses can't be compared; give another --runs-dir")


def climb(rungs, budgets, runs_dir, options):
    """Train the missing runs: {(rung, budget): folder}, or None if a run was asked to stop.

    options: words for train.py. ValueError if an existing run was started with other options.
    """
    parser, folders, options = Parser(), {}, [*SHARED, *options]
    add_options(parser, Config)
    given = vars(parser.parse_args(options))
    for budget, rung in itertools.product(budgets, rungs):
        name = f"ladder-{rung}-{budget:g}".replace("e+", "e")
        folder = find_run(runs_dir, name)
        if folder:
            check_changes(folder, given)
        if not folder or not read_point(folder):
            print(f"\n======== {name} ========")
            rate = depth_preset(LADDER[rung])["lr"]
            train.main(["--preset", rung, "--flops", str(budget), "--name", name, "--runs-dir",
                        runs_dir, "--lr", str(rate), *options, *(["--resume"] if folder else [])])
            folder = find_run(runs_dir, name)
        if not read_point(folder):
            return None
        folders[rung, budget] = folder
        same_text(folders.values())
    return folders


# ---- results ----
def report(points, law, ranges):
    """Yield lines with the points, the law, its uncertainty, and the best split of each budget.

    points: {(rung, budget): Point}; ranges: {"alpha": (low, high), ...}.
    """
    yield f"{'rung':10}{'N':>9}{'D':>9}{'FLOPs':>10}{'6 N D':>10}{'loss':>9}{'the law':>9}"
    for (rung, _), p in points.items():
        yield (f"{rung:10}{p.n:9.3g}{p.d:9.3g}{p.flops:10.2g}{6 * p.n * p.d:10.2g}"
               f"{p.loss:9.4f}{predicted(p.n, p.d, law):9.4f}")
    yield (f"\nL = {law.E:.3f} + {law.A:.3g} / N^{law.alpha:.3g} + {law.B:.3g} / D^{law.beta:.3g} "
           "bits per byte")
    yield (f"through other draws of these {len(points)} points, four times in five: " + ", ".join(
        f"{name} {low:.2g} to {high:.2g}" for name, (low, high) in ranges.items()))
    sizes = [p.n for p in points.values()]
    yield f"\n{'budget':10}{'best N':>9}{'D':>9}{'D / N':>8}{'loss':>9}   where 6 N D is the budget"
    for budget in sorted({budget for _, budget in points}):
        n, d = best_split(budget, law)
        outside = "" if min(sizes) <= n <= max(sizes) else "   outside the rungs: a guess"
        yield (f"{budget:<10.2g}{n:9.3g}{d:9.3g}{d / n:8.3g}{predicted(n, d, law):9.4f}"
               + outside)
    yield f"the best N grows as the budget to the {law.beta / (law.alpha + law.beta):.2f}"


def draw(points, law, ranges, path):
    """Loss against FLOPs: the runs, the law for each rung, and the law at the best N."""
    figure, axes = picture(8.5, 4.8)
    all_flops = [6 * p.n * p.d for p in points.values()]
    low, high = min(all_flops) / 1.5, max(all_flops) * 1.5
    flops = torch.logspace(math.log10(low), math.log10(high), 100, dtype=torch.float64)
    for rung, colour in zip(dict.fromkeys(rung for rung, _ in points), COLOURS):
        own = [p for (name, _), p in points.items() if name == rung]
        n = own[0].n
        axes.plot([6 * p.n * p.d for p in own], [p.loss for p in own], "o", color=colour, ms=6)
        axes.plot(flops, predicted(n, flops / (6 * n), law), color=colour, lw=1.2,
                  label=f"{rung}, {n / 1e6:,.3g}M")
    axes.plot(flops, predicted(*best_split(flops, law), law), color=INK, lw=1.2, ls="--",
              label="the best N")
    text = ", ".join(f"{name} {a:.2g} to {b:.2g}" for name, (a, b) in ranges.items())
    axes.set(xscale="log", xlim=(low, high), xlabel="6 N D, FLOPs",
             ylabel="validation bits per byte")
    axes.set_title(f"L = {law.E:.2f} + {law.A:.3g} / N$^{{{law.alpha:.2f}}}$ + "
                   f"{law.B:.3g} / D$^{{{law.beta:.2f}}}$;  {len(points)} runs: {text}", loc="left",
                   fontsize=10)
    axes.grid(axis="y", color="0.92")
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0],
                    epilog="Every other option is one of train.py, and holds for all runs.")
    parser.add_argument("--flops", nargs="+", type=float, required=True,
                        help="budgets, each for a run of every rung: at least two")
    parser.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    args, options = parser.parse_known_args(argv)
    budgets = sorted(set(args.flops))
    if not all(0 < budget < math.inf for budget in budgets):
        raise ValueError(f"a budget of {budgets[0]:g} FLOPs is none; 1e12 takes about a minute")
    if len(RUNGS) * len(budgets) < LEAST:
        raise ValueError(f"{len(RUNGS)} rungs with {len(budgets)} budget of FLOPs are too few "
                         "points for a law; give at least two budgets")
    folders = climb(RUNGS, budgets, args.runs_dir, options)
    if not folders:
        print("\nstopped; the same command goes on from here")  # run() sets the exit code
        return
    points = {key: read_point(folder) for key, folder in folders.items()}
    rows = [point[:3] for point in points.values()]
    law = fit(rows)
    # Below 0, more would be worse; a power above 5 only fits a single outlier.
    if not all(0 < power < 5 for power in (law.alpha, law.beta)):
        raise ValueError(f"no law fits these {len(rows)} points (alpha {law.alpha:.3g}, beta "
                         f"{law.beta:.3g}): give more budgets, or larger ones")
    others = bootstrap(rows, law)
    ranges = {name: middle([getattr(o, name) for o in others]) for name in ("alpha", "beta")}
    print()
    for line in report(points, law, ranges):
        print(line)
    draw(points, law, ranges, Path(args.runs_dir) / "ladder.png")
    print(f"\n{Path(args.runs_dir) / 'ladder.png'} shows it")


if __name__ == "__main__":
    run(main)
