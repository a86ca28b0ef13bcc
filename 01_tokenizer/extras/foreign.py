"""How a Hugging Face tokenizer.json cuts a text, and what it puts before it: its added tokens, its
pre-tokenizer and its post-processor.

Used by formats.py. `refuse` is a function that raises ValueError: its argument says what the file
has that can't be expressed here without giving other ids, such as single_word, lstrip and rstrip,
by which an added token depends on the characters beside it.

Reads and writes nothing by itself. Next: formats.py.
"""

import os
import re
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from dialects import check_dialect
from pieces import CONTRACTION, DIGITS, PATTERNS, WHOLE, ours


def added_tokens(content, refuse):
    """The added tokens in a tokenizer.json: (the special ones, {name: id}; a list of such dicts of
    the others, as MappedTokenizer takes it).

    Hugging Face looks for those not "normalized" first, and for the others in what is left.
    """
    vocabulary, special, first, second = content["model"]["vocab"], {}, {}, {}
    tokens = content.get("added_tokens") or []
    in_steps, next_id = len({token["normalized"] for token in tokens}) > 1, len(vocabulary)
    for token in tokens:
        name, i, late = token["content"], token["id"], in_steps and token["normalized"]
        if i != vocabulary.get(name, next_id):
            refuse(f"an id for the added token {name!r} that it would not get")
        next_id += name not in vocabulary
        for key in ("single_word", "lstrip", "rstrip"):
            if token.get(key):
                refuse(f"{key} in the added token {name!r}")
        if not {token["special"], token["normalized"]} <= {True, False}:
            refuse(f"something other than true and false in the added token {name!r}")
        if late and token["special"]:
            refuse(f"the special token {name!r}, which is normalized while others are not")
        of_its_kind = special if token["special"] else second if late else first
        if name in of_its_kind:
            refuse(f"the added token {name!r} twice")
        of_its_kind[name] = i
    return special, [first, second] if second else [first] if first else []


def find_patterns(pre_tokenizer, refuse):
    """The patterns that, applied in turn, do what the pre-tokenizer of a tokenizer.json does."""
    patterns, byte_level = [], False
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space") and not byte_level:
            byte_level = True
            patterns += [PATTERNS["gpt2"]] if step.get("use_regex", True) else []
        elif kind == "Digits" and not byte_level:
            patterns.append(DIGITS["apart" if step["individual_digits"] else "together"])
        elif kind == "Split" and not byte_level:
            found = step["pattern"].get("Regex") or re.escape(step["pattern"]["String"])
            found = found.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", CONTRACTION)  # OpenAI's spelling
            known = found in ours()  # patterns that leave nothing between their matches
            how = step["behavior"], bool(step.get("invert"))
            if how != ("Isolated", False) and not (known and how == ("Removed", True)):
                refuse(f"a Split that is {how[0]}, invert={how[1]}")
            check_dialect(found)
            patterns.append(found if known else rf"(?:{found})|(?:(?!{found})(?:[^\n]|\n))+")
        else:
            refuse(f"the pre-tokenizer {kind}" + " with a prefix space" * (kind == "ByteLevel"))
    if not byte_level:
        refuse("no ByteLevel pre-tokenizer")
    return patterns or [WHOLE]


def opening(step, refuse):
    """The ids that the post-processor of a tokenizer.json puts before a text. Ids that it puts
    behind a text mark complete texts, and are left out. (Where there is a tokenizer.json,
    transformers ignores add_bos_token in tokenizer_config.json, too.)
    """
    kind = step.get("type", "ByteLevel")
    if kind == "Sequence":
        found = [ids for ids in (opening(each, refuse) for each in step["processors"]) if ids]
        if len(found) > 1:
            refuse("several post-processors that put something before a text")
        return found[0] if found else []
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [step["cls"][1]]
    if kind == "TemplateProcessing":
        pieces = [piece.get("SpecialToken", {}).get("id") for piece in step["single"]]
        if pieces.count(None) != 1:
            refuse("a post-processor whose template does not hold the text exactly once")
        before = pieces[:pieces.index(None)]
        return [i for name in before for i in step["special_tokens"][name]["ids"]]
    if kind != "ByteLevel":
        refuse(f"the post-processor {kind}")
    return []
