"""What goes wrong with one item is an error of that item."""

import logging

import pytest

from vlm_fo1.errors import FO1Error, ImageError, ItemError, item_errors


def test_a_foreign_exception_becomes_the_items_error_with_its_traceback_in_the_log(caplog):
    caplog.set_level(logging.DEBUG, "vlm_fo1")
    with pytest.raises(ItemError, match=r"^a\.jpg failed: KeyError: 'name'$"), item_errors("a.jpg"):
        raise KeyError("name")
    assert issubclass(ItemError, FO1Error)
    (record,) = caplog.records
    assert record.levelname == "DEBUG"
    assert record.exc_info


def test_an_exception_without_words_still_says_its_kind():
    with pytest.raises(ItemError, match="MemoryError: no message"), item_errors("a.jpg"):
        raise MemoryError


@pytest.mark.parametrize("error", [ImageError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_our_own_errors_and_interruptions_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, item_errors("a.jpg"):
        raise error
    assert caught.value is error
