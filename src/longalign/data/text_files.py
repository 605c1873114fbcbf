"""Text files as they are stored: UTF-8, UTF-16 of Windows, and older encodings, which charset-normalizer tells."""

from __future__ import annotations

import codecs
import csv
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


def decode_text(data: bytes, name: str) -> str:
    """The text in the bytes of a file.

    UTF-8, or what its byte order mark says. Of other bytes charset-normalizer tells the encoding, and a warning names
    it, since it may be wrong.

    Args:
        name: of the file, for messages.

    Raises:
        LongalignError: the file is binary, or its encoding cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise LongalignError(f"{name}: is damaged {encoding} text: {error.reason}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        return text
    told = _wide(data) or _told(data)
    if told is None:
        raise LongalignError(
            f"{name}: is binary, or text in an encoding that cannot be told: save it as UTF-8"
        )
    warnings.warn(f"{name}: is not UTF-8; read as {told}. Save it as UTF-8 if this is wrong", stacklevel=2)
    return data.decode(told)


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
    best = from_bytes(data[:_SAMPLE_BYTES]).best()
    if best is None:
        return None
    try:
        data.decode(best.encoding)
    except UnicodeDecodeError:  # beyond the sample
        return None
    return best.encoding


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
