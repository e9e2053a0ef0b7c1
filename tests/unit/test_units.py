import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("256M", 268435456),
        ("2k", 2048),
        ("1G", 2**30),
        ("10T", 10 * 2**40),
        (0, 0),
        ("0", 0),
        (" 4M ", 4194304),
    ],
)
def test_a_size_with_its_unit(text, count):
    assert units.size(text) == count


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("256", "needs a unit"),
        (256, "needs a unit"),
        ("256MB", "is not a size"),
        ("256X", "is not a size"),
        ("1.5G", "is not a size"),
        ("-1M", "negative"),
        (True, "is not a size"),
        ("", "is not a size"),
        (["1M"], "is not a size"),
    ],
)
def test_a_wrong_size_says_why(text, word):
    with pytest.raises(ValueError, match=word):
        units.size(text)


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("256MB", "256M"),
        ("256", "256M"),
        (268435456, "256M"),
        ("1.5G", "1536M"),
        ("256MiB", "256M"),
        ("x", None),
    ],
)
def test_the_mend_of_a_size(text, better):
    assert units.suggestion(text) == better


@given(st.integers(0, 2**50))
def test_written_and_read_again_is_the_same(count):
    text = units.written(count)
    assert (int(text) if text.isdigit() else units.size(text)) == count


@given(st.integers(1, 2**60), st.integers(1, 2**30))
def test_up_to_is_the_next_multiple(count, step):
    up = units.up_to(count, step)
    assert up % step == 0
    assert 0 <= up - count < step
