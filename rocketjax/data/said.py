"""What a text says, whatever its form: the one measure of what is a copy."""

import hashlib
import re
import unicodedata

# Soft hyphens, joiners, marks of direction and byte order: what BERT's tokenizers drop too.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)


def said(text: str) -> bytes:
    """16 bytes, equal for texts that say the same.

    White space, case, invisible characters and the forms that Unicode calls compatible (NFKC) do
    not count: a copy that is taken for a negative harms more than a negative that is left out.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
        text = unicodedata.normalize("NFKC", text)  # some come apart as they lose their case
    text = " ".join(text.casefold().split())
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
