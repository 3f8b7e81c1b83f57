"""What a text says, whatever its form: the one measure of what is a copy."""

import hashlib
import re
import unicodedata

# What BERT's tokenizers drop: control characters, soft hyphens, joiners, marks of direction and
# variation, byte order, private use.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ue000-\uf8ff\ufe00-\ufe0f\ufeff\ufff9-\ufffd\U000e0000-\U000e0fff]"
)
_PIECES = re.compile(r"\w+|[^\w\s]")  # words, and marks each by itself


def said(text: str) -> bytes:
    """16 bytes, equal for texts that say the same.

    White space (beside a mark, any of it), case, invisible characters and the forms that Unicode
    calls compatible (NFKC) do not count: a copy that is taken for a negative harms more than a
    negative that is left out.
    """
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
        text = unicodedata.normalize("NFKC", text)  # some come apart as they lose their case
    text = " ".join(_PIECES.findall(text.casefold()))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
