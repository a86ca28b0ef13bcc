"""Tests of longwords.py: the same ids as the plain way, of words of any length."""

from longwords import apply_merges_long
from test_fast import assert_equals_slow


def test_apply_merges_equals_slow():
    assert_equals_slow(apply_merges_long)
