"""Tests of writer.py; whole texts are written in test_sample.py."""

from writer import TextStream, Writer, held_back


def test_text_stream():
    text = TextStream(bytes)  # ids are bytes here
    euro = "€".encode()
    assert text.push([104, *euro[:1]]) == "h"
    assert text.push(euro[1:2]) == ""
    assert text.push([*euro[2:], 33]) == "€!"
    assert text.push(euro[:2]) == "" and text.end() == "\ufffd"
    assert TextStream(bytes).push([0xFF, 65]) == "\ufffdA", "what can't be a character is not held"
    whole = "naïve 東京 🙂" * 3
    text = TextStream(bytes)
    assert "".join(text.push([b]) for b in whole.encode()) + text.end() == whole


def test_held_back():
    stops = ["\n\n", "END"]
    found = [held_back(text, stops) for text in ("a\n", "THE EN", "E", "", "EN ", "xEEN")]
    assert found == [1, 2, 1, 0, 0, 2]
    assert held_back("abc", []) == 0


def test_writer_drops_what_follows_a_stop_string():
    class Pieces:
        @staticmethod
        def decode_bytes(ids):
            return b"".join([b"a", b"bc\xe2", b"xbcy"][i] for i in ids)

    writer = Writer([0], Pieces, end_ids=set(), stops=["c", "bc"])
    assert [writer.push(0, 0.0), writer.push(1, 0.0)] == ["a", ""], "the earlier one counts"
    assert writer.done.text == "a" and writer.done.finish == "stop"
    writer = Writer([0], Pieces, end_ids=set(), stops=["c", "bc"])
    assert writer.push(2, 0.0) == "x"


def test_writer():
    """Ids are bytes here, and 0 is the end."""
    class Bytes:
        decode_bytes = bytes

    writer = Writer([1], Bytes, end_ids={0}, stops=["\n\n"])
    shown = [writer.push(i, -0.5) for i in "aé\nb\n".encode()]
    assert shown == ["a", "", "é", "", "\nb", ""]
    assert writer.done.text == "aé\nb" and writer.done.finish == ""
    assert writer.push(10, -1.0) == "" and writer.done.finish == "stop"
    assert writer.done.logprobs == [-0.5] * 6 + [-1.0] and writer.done.prompt == [1]
    writer = Writer([1], Bytes, end_ids={0}, stops=["\n\n"])
    assert [writer.push(i, 0.0) for i in (10, 0xC3, 0)] == ["", "", "\n\ufffd"]
