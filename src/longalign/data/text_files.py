"""Text files as they are stored: UTF-8, UTF-16 of Windows, and older encodings, which charset-normalizer tells."""

from __future__ import annotations

import codecs
import csv
import unicodedata
import warnings
from collections.abc import Iterable

from longalign.errors import LongalignError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1 << 16
_DELIMITERS = ",;\t|"
_WESTERN_MARKS = "“”„‘’‚«»‹›–—…€£°½¼¾²³×·¿¡\xa0"


def decode_text(data: bytes, name: str) -> str:
    """`read_text` with a warning that names a guessed encoding."""
    text, guessed = read_text(data, name)
    if guessed is not None:
        warnings.warn(
            f"{name}: is not UTF-8; read as {guessed}. Save it as UTF-8 if this is wrong", stacklevel=2
        )
    return text


def read_text(data: bytes, name: str) -> tuple[str, str | None]:
    """The text in the bytes of a file, and its encoding if that is a guess.

    UTF-8, or what its byte order mark says. Of other bytes charset-normalizer tells the encoding, which may be wrong.
    Few words say little of it: then Windows' Western encoding is taken where its letters make sense.

    Args:
        name: of the file, for messages.

    Raises:
        LongalignError: the file is binary, or its encoding cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), None
            except UnicodeDecodeError as error:
                raise LongalignError(f"{name}: is damaged {encoding} text: {error.reason}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return text, None
    told = _wide(data) or _told(data)
    if told is None:
        raise LongalignError(
            f"{name}: is binary, or text in an encoding that cannot be told: save it as UTF-8"
        )
    return data.decode(told), told


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: text of ASCII letters has a zero in every other byte."""
    sample = data[:_SAMPLE_BYTES]
    if len(data) % 2 or len(sample) < 4:
        return None
    for encoding, zeros, letters in (
        ("utf-16-le", sample[1::2], sample[::2]),
        ("utf-16-be", sample[::2], sample[1::2]),
    ):
        if zeros.count(0) > len(zeros) // 2 and not letters.count(0):
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            return encoding
    return None


def _told(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    if b"\0" in data:
        return None
    found = from_bytes(data[:_SAMPLE_BYTES])
    best = found.best()
    if best is None:
        return None
    # Of a few words no language is known, and several encodings give text that looks equally good.
    if not best.coherence and len({str(m) for m in found if m.chaos <= best.chaos}) > 1:
        return "cp1252" if _western(data) else None
    try:
        data.decode(best.encoding)
    except UnicodeDecodeError:  # beyond the sample
        return None
    return best.encoding


def _western(data: bytes) -> bool:
    """Whether text makes sense as Windows' Western encoding: some accented Latin letters or dashes among others."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    special = [c for c in text if not c.isascii()]
    letters = sum(c.isalpha() for c in text)
    known = all(unicodedata.name(c, "").startswith("LATIN ") or c in _WESTERN_MARKS for c in special)
    return known and 2 * sum(c.isalpha() for c in special) <= letters


def delimiter_of(text: str, keys: Iterable[str]) -> str:
    """What separates the columns of a CSV text: as the standard library's sniffer finds, of the header alone.

    Args:
        keys: names of columns of which one should be there. They decide where the sniffer fails.
    """
    header = text.split("\n", 1)[0].strip("\r")
    wanted = set(keys)
    try:
        found = csv.Sniffer().sniff(header, delimiters=_DELIMITERS).delimiter
    except csv.Error:
        found = ","
    for delimiter in (found, *_DELIMITERS):
        if wanted & {name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])}:
            return delimiter
    return found
