"""Changes of exercises that change nothing that the task asks for, each with its reason.
bench_mutants.py prints changes as they are written here, and leaves these out.
"""

BYTES = "bytes are read like a list of their numbers, and merge() returns a list"
PROGRESS = "only the line that shows progress is another, which the task does not ask for"
ROUNDING = "any bound does that is above rounding errors and below a share"
TRACK = "track(range(256, 256 + n_merges)"

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
    "data.py": {
        ("is_validation", "int.from_bytes(digest[:8], 'big') < share * 2 ** 64 -> "
                          "int.from_bytes(digest[:8], 'big') <= share * 2 ** 64"):
            "no text is known whose hash begins with exactly that number",
        ("bits_per_byte", "0 -> -1 (2)"): "the size that is found for a masked target is not used",
    },
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
        ("attention_weights", "-2 -> 2"): "of four dimensions, 2 and -2 are the same",
        ("generate", "0 -> -1"): "where the first prompt is looked at, all are equally long",
    },
}
