"""The beginning of a long text, which holds all the tokens that are read of it.

A tokenizer turns all of a text into tokens, its truncation comes after that. Of a page that is
read to its 128th token, that is wasted work.
"""

import re

import tokenizers

CHARACTERS = 6  # in a token, at most, for a beginning to be long enough: English has some 4.5
MARGIN = 8  # tokens before the end of a beginning that are not trusted: tokens there may differ

# Nothing joins over such a blank: no accent follows it, and no run of blanks.
_BLANK = re.compile(r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])")


def splits_at_blanks(rules: tokenizers.Tokenizer) -> bool:
    """Whether no token spans a blank, so that the words behind one change none before it."""
    splitter = rules.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("ab cd")) > 1


def beginning(text: str, tokens: int) -> str:
    """What probably holds `tokens` tokens and the margin; all of a text that is not longer.

    Whoever uses it counts the tokens.
    """
    least = (tokens + MARGIN) * CHARACTERS
    blank = _BLANK.search(text, least) if len(text) > least else None
    return text[: blank.start()] if blank else text
