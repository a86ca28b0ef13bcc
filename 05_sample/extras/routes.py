"""What page.html asks for besides OpenAI's API: the models, and what they see in a text.

    GET  /api/models                           of each model: does it chat, how long is its window?
    POST /api/survey    {"text" or "messages"}     every token of a text: microscope.survey()
    POST /api/inside    {"ids", "position"}        one token from inside: microscope.inside()
    POST /api/lookback  {"ids", "position"}        where in the training text it may come from

Used by serve.py, whose ROUTES it extends. Reads a run's config.json and data.
Next: 06_eval/evals.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found
import threading

from api import Refusal, field, messages_of
from bpe import Tokenizer
from chat import as_written, has_learned, next_turn
from conversations import prompt_ids
from fim import TOKENS
from lookback import Lookback
from microscope import inside, survey
from runs import read_config
from sample import start_of


def about(server, name):
    """{"id", "chats": was it trained on conversations, "window": ids, "fim": can it fill a gap} of
    a model, by its run's files if it isn't loaded. None if these are damaged.
    """
    folder = getattr(server.models[name], "folder", None)
    if not (engine := server.engines.get(name)) and not folder:  # there is but one, and its twin
        engine = server.engine({"model": name.removesuffix(":int8")})
    if engine:
        chats, window, tokenizer = engine.chats, engine.model.config.seq_len, engine.tokenizer
    else:
        try:
            config, tokenizer = read_config(folder), Tokenizer.load(folder / "tokenizer.json")
        except (ValueError, OSError):
            return None
        chats, window = has_learned(folder, config), config.seq_len
    return {"id": name, "chats": chats, "window": window,
            "fim": {*TOKENS} <= {*tokenizer.special}}


def list_known(server, body):
    """GET /api/models: about() all."""
    return {"data": [*filter(None, (about(server, name) for name in server.models))]}


def look_over(server, body):
    """POST /api/survey: {"ids", "tokens"} of a text, or of a conversation that the model answered:
    its last message's ids then stand where the model began to write.
    """
    engine = server.engine(body)
    if body.get("messages") is None:
        ids = start_of(field(body, "text", str, ""), engine.tokenizer)
    else:
        *before, last = as_written(messages_of(body, last="assistant"), engine.tokenizer)
        until = prompt_ids([*before, last, {"role": "user", "content": ""}], engine.tokenizer)
        behind = len(next_turn("", engine.tokenizer))  # the end of the answer, and what follows
        ids = until[:len(until) - behind]
    with engine.free:
        tokens = survey(engine.model, engine.tokenizer, ids)
    special = {*engine.tokenizer.special.values()}
    for token in tokens:  # a special token stands for no text
        token["bytes"] = "" if token["id"] in special else token["bytes"]
    return {"ids": ids, "tokens": tokens}


def ids_of(body, engine):
    """(ids, position) that a request names. Refusal if they can't be of the model's text."""
    ids, size = field(body, "ids", list, []), engine.model.config.vocab_size
    if not ids or not all(type(i) is int and 0 <= i < size for i in ids):
        raise Refusal(f"ids must be a list of ids below {size:,}", param="ids")
    return ids, field(body, "position", int, len(ids) - 1, 0, len(ids) - 1)


def look_inside(server, body):
    """POST /api/inside: what microscope.inside() returns."""
    engine = server.engine(body)
    ids, position = ids_of(body, engine)
    with engine.free:
        return inside(engine.model, engine.tokenizer, ids, position)


def look_back(server, body):
    """POST /api/lookback: of the longest match that ends at the position {"length", "count", "of",
    "match", "places"}, or {"error": why there is none}. The first time the text is indexed.
    """
    engine = server.engine(body)
    ids, position = ids_of(body, engine)
    with INDEXING:  # not engine.free: meanwhile the model writes
        if not hasattr(engine, "lookback"):
            try:
                engine.lookback = engine.run and Lookback.of_run(engine.run)
            except (ValueError, OSError) as error:
                engine.lookback = str(error)
    if not isinstance(engine.lookback, Lookback):
        return {"error": engine.lookback or "this model was trained elsewhere: its training text "
                                            "is not here"}
    found, = engine.lookback.matches(ids[:position + 1], first=position)
    match = engine.tokenizer.decode(ids[position + 1 - found["length"]:position + 1])
    return found | {"of": str(engine.lookback), "match": match}


INDEXING = threading.Lock()
MORE = {("GET", "/api/models"): list_known, ("POST", "/api/survey"): look_over,
        ("POST", "/api/inside"): look_inside, ("POST", "/api/lookback"): look_back}
