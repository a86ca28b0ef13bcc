"""Changes of exercises that change nothing that the task asks for, each with its reason.
bench_mutants.py prints changes as they are written here, and leaves these out.
"""

BYTES = "bytes are read like a list of their numbers, and merge() returns a list"
PROGRESS = "only the line that shows progress is another, which the task does not ask for"
MORE = "one more suffix is looked at, which shares no more"
PAIRS = "of ranks that are sorted again, none is by one more than another"
ROUNDING = "any bound does that is above rounding errors and below a share"
TRACK = "track(range(256, 256 + n_merges)"

LEAST = "there is no conversation, and so no room to compare with it"
KEPT = "a window in which nothing fits is kept among those looked at, which only takes time"
DEVICE = "on a CPU, where the quick tests run, all tensors are on one device"
DIMENSION = "of two dimensions the last is number 1"
ONE = "there is one column: the first is the last"
SUM = "the sum of all p is 1, up to rounding, which a random number below 1 seldom meets"

EQUAL = {  # {file: {(exercise, change): reason}}
    "bpe.py": {
        ("train_naive", "list(word) -> word"): BYTES,
        ("train", "list(word) -> word"): BYTES,
        ("train", f"{TRACK}, 'merging', n_merges, unit=' pairs') -> {TRACK}, n_merges, 'merging', "
                  "unit=' pairs')"): PROGRESS,
        ("train", f"{TRACK}, 'merging', n_merges, unit=' pairs') -> {TRACK}, 'merging', n_merges)"):
            PROGRESS,
        ("split_special", "sorted(names, key=len, reverse=True) -> sorted(names, reverse=True)"):
            "of names that match at one place the shorter ones begin the longest, which sorts last",
        ("Tokenizer.encode", "list(piece.encode()) -> piece.encode()"): BYTES,
    },
    "batches.py": {
        ("next_source", "taken[i] < share * (k + 1) - 1e-09 -> "
                        "taken[i] <= share * (k + 1) - 1e-09"): ROUNDING,
        ("next_source", "1e-09 -> 2e-09"): ROUNDING,
        ("next_source", "1e-09 -> 5e-10"): ROUNDING,
    },
    "sft.py": {
        ("pack", "0 -> -1"): LEAST, ("pack", "0 -> 1"): LEAST,
        ("pack", "space - lengths[i] -> space + lengths[i]"): KEPT,
        ("pack", "space - lengths[i] -> space"): KEPT,
        ("pack", "space - lengths[i] -> lengths[i]"): KEPT,
        ("packed_mask", "torch.arange(T, device=starts.device) -> torch.arange(T)"): DEVICE,
        ("packed_loss", "torch.arange(x.shape[1], device=x.device) -> torch.arange(x.shape[1])"):
            DEVICE,
    },
    "rl.py": {
        ("reward", "float(found == expected) -> found == expected"):
            "True is 1.0, and False 0.0, in all that is done with a reward",
        ("Answer.add", "int(own) -> own"): "True is 1, and False 0, in np.where()",
        ("Answer.add", "own and i in self.ends -> i in self.ends"):
            "what is forced are marks and digits, never an end",
        ("draw", "-1 -> 1"): DIMENSION, ("draw", "-1 -> 1 (2)"): DIMENSION,
        ("draw", "-1 -> 1 (4)"): DIMENSION, ("draw", "-1 -> 1 (5)"): DIMENSION,
        ("draw", "-1 -> 1 (6)"): DIMENSION, ("draw", "1 -> 0 (5)"): SUM, ("draw", "0 -> -1"): ONE,
        ("draw", "0 -> -1 (2)"): ONE,
        ("draw", "uniforms.to(p.device)[:, None] * upto[:, -1:] -> "
                 "uniforms.to(p.device)[:, None] / upto[:, -1:]"): SUM,
        ("draw", "uniforms.to(p.device)[:, None] * upto[:, -1:] -> "
                 "uniforms.to(p.device)[:, None]"): SUM,
        ("draw", "torch.searchsorted(upto, wanted, right=True).clamp(max=p.shape[-1] - 1) -> "
                 "torch.searchsorted(upto, wanted, right=True)"): SUM,
        ("draw", "p.shape[-1] - 1 -> p.shape[-1] + 1"): SUM,
        ("draw", "p.shape[-1] - 1 -> p.shape[-1]"): SUM,
        ("draw", "torch.linalg.vecdot(p, logits) -> torch.linalg.vecdot(logits, p)"):
            "a product of real vectors is the same either way",
    },
    "data.py": {
        ("is_validation", "int.from_bytes(digest[:8], 'big') < share * 2 ** 64 -> "
                          "int.from_bytes(digest[:8], 'big') <= share * 2 ** 64"):
            "no text is known whose hash begins with exactly that number",
        ("bits_per_byte", "0 -> -1 (2)"): "the size that is found for a masked target is not used",
    },
    "duplicates.py": {
        ("jaccard", "np.intersect1d(a, b, assume_unique=True) -> "
                    "np.intersect1d(b, a, assume_unique=True)"): "what both have is the same",
    },
    "tasks.py": {("column_sums", "0 -> -1"): "a list times -1 is empty, as it is times 0"},
    "formats.py": {
        ("byte_letters", "256 -> 257"): "256, which would be printable, is no byte",
        ("byte_letters", "256 -> 257 (2)"): "256, which would come last of the others, is no byte",
        ("byte_letters", "256 -> 255 (2)"): "255 is printable, and none of the others",
    },
    "ngrams.py": {
        ("hash_ngrams", "0 -> -1"): "any id gives its type",
        ("hash_ngrams", "0 -> -1 (2)"): "any id gives its type",
        ("hash_ngrams", "0 -> 1 (3)"): "what is added behind the last place is cut off again",
    },
    "losses.py": {("smoothed_loss", "-1 -> 1 (3)"): "of two dimensions, 1 and -1 are the same"},
    "gpt.py": {
        ("GPT.loss", "512 -> 511"): "the losses are the same, however many positions at a time",
        ("attention_weights", "-2 -> 2"): "of four dimensions, 2 and -2 are the same",
        ("generate", "0 -> -1"): "where the first prompt is looked at, all are equally long",
    },
}

# ---- stages 4 to 7 ----
ROWS = "of a tensor with two dimensions it is the same one"
ONE_ROW = "there is one row, the first and the last"
TWO_ROWS = "in language modelling there are two rows, which both start at the same place"
ON_A_CPU = "where the tests run, everything is on the CPU already"
INDENT = "it is for people who read the file"
ALL_OF_THEM = "all are on the disk before the checkpoint gets its name"
DELETED_TWICE = "only if another process deletes it at the same moment is there an error"
NO_MORE = "the task asks for no more than how the message begins; test_nonfinite.py would notice"
COPIED = "it is another one only where the extras were not copied"
FREED = "backward() has freed what the graph behind it held"
AT_LEAST_1 = "the term is at least 1, or min() has another beside it that is at most 1"
ANY_WINDOW = "a window that is read to be left out may be any"
ITS_LINE = "only the line that shows progress is another"
BELOW_ZERO = "a temperature of about 1e-30 leaves the likeliest id alone, whether divided by or not"

EQUAL |= {
    "optim.py": {
        ("learning_rate", "1.0 -> 2.0"): AT_LEAST_1,
        ("learning_rate", "1.0 -> 2.0 (2)"): AT_LEAST_1,
        ("learning_rate", "1.0 -> 2.0 (3)"): AT_LEAST_1,
        ("learning_rate", "1 - left -> 1 + left"): "the cosine is even, and repeats after 2 pi",
        ("clip", "norm > largest -> norm >= largest"): "gradients are multiplied by 1",
        ("orthogonalize", "X.shape[1] > X.shape[2] -> X.shape[1] >= X.shape[2]"):
            "it is the same for a square matrix, whichever side is taken for the short one",
    },
    "runs.py": {
        ("save_checkpoint", "to_disk(target.parent, folder) -> to_disk(folder, target.parent)"):
            "both are on the disk before an older checkpoint goes",
        ("save_checkpoint", "0 -> -1"): "messages of the system have one line",
        ("save_checkpoint", "json.dumps(sums, indent=1) -> json.dumps(sums)"): INDENT,
        ("save_checkpoint", "1 -> 2"): INDENT,
        ("save_checkpoint", "1 -> 0"): INDENT,
        ("save_checkpoint", "to_disk(*folder.glob('metrics.jsonl'), *aside.rglob('*'), aside) -> "
                            "to_disk(*aside.rglob('*'), *folder.glob('metrics.jsonl'), aside)"):
            ALL_OF_THEM,
        ("save_checkpoint", "to_disk(*folder.glob('metrics.jsonl'), *aside.rglob('*'), aside) -> "
                            "to_disk(*folder.glob('metrics.jsonl'), aside, *aside.rglob('*'))"):
            ALL_OF_THEM,
        ("save_checkpoint", "shutil.rmtree(aside, ignore_errors=True) -> shutil.rmtree(aside) (2)"):
            DELETED_TWICE,
        ("save_checkpoint", "aside = folder / f'.{old.name}.{os.urandom(4).hex()}.tmp' -> pass"):
            "the name that the new checkpoint had is free by then",
        ("save_checkpoint", "True -> False (4)"):
            DELETED_TWICE,
    },
    "train.py": {
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(model, arrays, config, "
                       "loss) -> extra('nonfinite').first_bad(model, arrays, config, "
                       "loss)"): COPIED,
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(model, arrays, config, "
                       "loss) -> extra('nonfinite')"): NO_MORE,
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(model, arrays, config, "
                       "loss) -> extra('nonfinite') or extra('nonfinite').first_bad("
                       "model, arrays, config, loss)"): NO_MORE,
        ("train_step", "extra('nonfinite') -> 'nonfinite'"): NO_MORE,
        ("train_step", "extra('nonfinite').first_bad(model, arrays, config, loss) -> "
                       "extra('nonfinite')"): NO_MORE,
        ("train_step", "int((batch[1] >= 0).sum()) -> (batch[1] >= 0).sum()"):
            "a tensor can be divided by a number of NumPy's, too",
        ("train_step", "nats.detach() -> nats"): FREED,
        ("train_step", "mean + norm -> mean - norm"):
            "it is finite if both are, and else inf or nan, as the sum is",
        ("score", "range(n) if rank else track(range(n), 'evaluating', n, unit=' batches') -> "
                  "range(n)"): ITS_LINE,
        ("score", "range(n) if rank else track(range(n), 'evaluating', n, unit=' batches') -> "
                  "track(range(n), 'evaluating', n, unit=' batches')"): ITS_LINE,
        ("score", "track(range(n), 'evaluating', n, unit=' batches') -> "
                  "track(range(n), n, 'evaluating', unit=' batches')"): ITS_LINE,
        ("score", "track(range(n), 'evaluating', n, unit=' batches') -> "
                  "track(range(n), 'evaluating', n)"): ITS_LINE,
        ("score", "1 -> 2 (3)"): "an id too many is cut off again by pad(), which gets -1",
        ("score", "0 -> -1 (3)"): ANY_WINDOW,
        ("score", "0 -> 1 (4)"): ANY_WINDOW,
        ("score", "0 -> -1 (4)"): ANY_WINDOW,
        ("score", "torch.stack([F.pad(row, (0, T + 1 - len(row))) for row in rows]).to(device) -> "
                  "torch.stack([F.pad(row, (0, T + 1 - len(row))) for row in rows])"): ON_A_CPU,
        ("score", "model.loss(rows[:, :-1], rows[:, 1:]).cpu().numpy() -> "
                  "model.loss(rows[:, :-1], rows[:, 1:]).cpu()"): "NumPy also reads such a tensor",
        ("score", "model.loss(rows[:, :-1], rows[:, 1:]).cpu() -> "
                  "model.loss(rows[:, :-1], rows[:, 1:])"): ON_A_CPU,
    },
    "report.py": {
        ("throughput", "0 -> 1 (3)"): "a list of one end makes no stretch, whatever is in it",
        ("throughput", "0 -> -1 (3)"): "a list of one end makes no stretch, whatever is in it",
        ("throughput", "1 -> 2 (3)"): "NumPy takes any negative length for one to be found",
    },
    "sample.py": {
        ("penalise", "logits > 0 -> logits >= 0"): "0 stays 0, divided or multiplied",
        ("top_k", "logits.topk(min(k, logits.shape[-1]), dim=-1) -> "
                  "logits.topk(min(k, logits.shape[-1]))"): "it is the default",
        ("top_k", "-1 -> 1"): ROWS,
        ("top_k", "-1 -> 1 (2)"): ROWS,
        ("top_k", "-1 -> 1 (3)"): ROWS,
        ("top_p", "logits.sort(dim=-1, descending=True, stable=True) -> "
                  "logits.sort(descending=True, stable=True)"): "it is the default",
        ("top_p", "logits.sort(dim=-1, descending=True, stable=True) -> "
                  "logits.sort(dim=-1, descending=True)"): "on a CPU every sort is stable",
        ("top_p", "True -> False (2)"): "on a CPU every sort is stable",
        ("top_p", "-1 -> 1"): ROWS,
        ("top_p", "-1 -> 1 (2)"): ROWS,
        ("top_p", "-1 -> 1 (3)"): ROWS,
        ("top_p", "-1 -> 1 (4)"): ROWS,
        ("min_p", "-1 -> 1"): ROWS,
        ("min_p", "-1 -> 1 (2)"): ROWS,
        ("distribution", "1 -> 0"): "a penalty of 1 changes nothing, skipped or not",
        ("distribution", "sampling.temperature < 1e-30 -> sampling.temperature <= 1e-30"):
            BELOW_ZERO,
        ("distribution", "1e-30 -> 2e-30"): BELOW_ZERO,
        ("distribution", "1e-30 -> 5e-31"): BELOW_ZERO,
        ("distribution", "-1 -> 1"): ROWS,
        ("distribution", "-1 -> 1 (2)"): ROWS,
        ("distribution", "-1 -> 1 (3)"): ROWS,
        ("distribution", "-1 -> 1 (4)"): ROWS,
        ("draw", "-1 -> 1"): ROWS,
        ("draw", "0 -> -1"): "there is one column",
        ("held_back", "1 -> 0"): "every text ends with 0 characters, which hold nothing back",
    },
    "lookup.py": {
        ("guess", "N - 1 -> N"): "no copy of all ids is found among them",
        ("guess", "1 -> 0"): "no copy of all ids is found among them",
        ("generate_by_lookup", "np.array(prompt) -> prompt"):
            "concatenate() makes an array of it before the first id is written",
        ("generate_by_lookup", "np.zeros_like(row) -> row"): "nobody reads what is behind `end`",
        ("generate_by_lookup", "np.concatenate((row, np.zeros_like(row))) if end == len(row) else "
                               "row -> np.concatenate((row, np.zeros_like(row)))"):
            "nobody reads what is behind `end`",
        ("generate_by_lookup", "torch.tensor([[row[end - 1], *guesses]], device=cache.keys.device)"
                               " -> torch.tensor([[row[end - 1], *guesses]])"): ON_A_CPU,
        ("generate_by_lookup", "0 -> -1 (2)"): "there is one row",
    },
    "lookback.py": {
        ("suffix_array", "np.argsort(ids, kind='stable') -> np.argsort(ids)"):
            "what is equal is sorted later; stable is a radix sort, and faster",
        ("suffix_array", "1 -> 2 (2)"): "what is there beyond the end differs",
        ("suffix_array", "1 -> 2 (6)"): "nobody reads that place",
        ("suffix_array", "1 -> 2 (7)"): "ranks from 2 on are in the same order",
        ("suffix_array", "N + 1 -> N - 1 (3)"): PAIRS,
        ("suffix_array", "N + 1 -> N (3)"): PAIRS,
        ("suffix_array", "1 -> 2 (10)"): PAIRS,
        ("suffix_array", "1 -> 0 (10)"): PAIRS,
        ("longest_match", "zip(beginning(i), pattern) -> zip(pattern, beginning(i))"):
            "equality has no order",
        ("longest_match", "1 -> 2"): MORE,
        ("longest_match", "1 -> 2 (2)"): MORE,
    },
    "quant.py": {
        ("quantize_tensor", "0 -> -1 (3)"): "x / scale + zero is at least -0.5, which rounds to 0",
    },
    "microscope.py": {
        ("logit_lens", "torch.tensor([ids[:position]], device=model.embed.weight.device) -> "
                       "torch.tensor([ids[:position]])"): ON_A_CPU,
        ("logit_lens", "0 -> -1"): "there is one row",
        ("logit_lens", "-1 -> 1 (2)"): ROWS,
        ("logit_lens", "-1 -> 1 (3)"): ROWS,
    },
    "evals.py": {
        ("standard_error", "float(np.sqrt(D / (D - 1) * np.sum((B - r * S) ** 2)) / S.sum()) -> "
                           "np.sqrt(D / (D - 1) * np.sum((B - r * S) ** 2)) / S.sum()"):
            "NumPy's float64 is one of Python's floats",
        ("span_losses", "torch.tensor([row], device=model.embed.weight.device) -> "
                        "torch.tensor([row])"): ON_A_CPU,
        ("spans", "-1 -> 1"): TWO_ROWS,
        ("spans", "-1 -> 1 (2)"): TWO_ROWS,
        ("spans", "1 -> 0 (2)"): TWO_ROWS,
        ("spans", "1 -> 2 (2)"): TWO_ROWS,
        ("span_losses", "0 -> -1"): ONE_ROW,
        ("span_losses", "0 -> -1 (2)"): ONE_ROW,
        ("span_losses", "-1 -> 1 (2)"): ROWS,
        ("is_right", "0 -> -1"): ONE_ROW,
        ("is_right", "float(nats.mean()) -> nats.mean()"):
            "tensors with one number are compared as numbers are",
    },
    "scoring.py": {
        ("branch_mask", "torch.arange(n_shared, device=shared.device) -> torch.arange(n_shared)"):
            ON_A_CPU,
        ("branch_mask", "torch.arange(T, device=shared.device) -> torch.arange(T)"): ON_A_CPU,
    },
    "scale.py": {
        ("train_step", "float(total((batch[1] >= 0).sum(dtype=float))) -> "
                       "total((batch[1] >= 0).sum(dtype=float))"):
            "a tensor with one number divides as the number does",
        ("train_step", "(batch[1] >= 0).sum(dtype=float) -> (batch[1] >= 0).sum()"):
            "whole numbers are added up exactly, too",
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(engine.model, "
                       "arrays[:2], config) -> extra('nonfinite').first_bad(engine.model, "
                       "arrays[:2], config)"): COPIED,
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(engine.model, "
                       "arrays[:2], config) -> extra('nonfinite')"): NO_MORE,
        ("train_step", "extra('nonfinite') and extra('nonfinite').first_bad(engine.model, "
                       "arrays[:2], config) -> extra('nonfinite') or extra('nonfinite').first_bad("
                       "engine.model, arrays[:2], config)"): NO_MORE,
        ("train_step", "extra('nonfinite') -> 'nonfinite'"): NO_MORE,
        ("train_step", "extra('nonfinite').first_bad(engine.model, arrays[:2], config) -> "
                       "extra('nonfinite')"): NO_MORE,
        ("train_step", "nats.detach() -> nats"): FREED,
        ("train_step", "1.0 -> 0.5"): "without a target the sum is 0, whatever it is divided by",
        ("train_step", "float(mean) -> mean"): "tensor() takes what has one number for a number",
    },
}
