"""The examples in docstrings do what they say."""

import doctest
import importlib

import pytest

from tests.test_layout import MODULES, name_of

WITH_EXAMPLES = [name_of(path) for path in MODULES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
