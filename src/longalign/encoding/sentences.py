"""Where the sentences of a text end: lines first, then sentencex within them.

People write prompts as prose, as lists, as one phrase a line and as ``Subject: fox`` lines. Every line ends a sentence,
unless the lines are hard-wrapped prose: text that an editor broke to fill a width. `is_wrapped` says by which rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import sentencex

from longalign.errors import LongalignError

# The time of sentencex grows with the square of a paragraph (160,000 characters of Chinese: 5 s), so it reads
# the text through a window of this many characters, and a sentence end counts only this far from a cut edge.
_READ_CHARS = 4096
_MARGIN_CHARS = 512
# sentencex 1.0 crashes on "A", a blank of several bytes and a full stop, so it gets ordinary blanks instead.
_WIDE_BLANK = re.compile(r"[^\S\x00-\x7F]")

_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_MARKER = re.compile(r"\s*(?:[-*+•·–—▪◦‣●○]|#{1,6}|\(?(?:\d{1,3}|[A-Za-z])[.)])\s+")
_LABEL = re.compile(r"\s*[^\W\d_a-z][\w'-]*(?: [\w'&/-]+){0,2}:(?:\s|$)")
_BARE_NUMBER = re.compile(r"\(?\d{1,3}[.)]")
_NARROWEST = 40  # characters; nobody wraps prose more narrowly

# ISO 639-1, and below the longer codes for which sentencex 1.0 names a relative whose rules it takes. sentencex itself
# takes any word for a language, and cuts by the rules of English what it does not know.
_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu
ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na
nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn
so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu

aae abs ace acm ady aeb aln als alt ami anp apc arn arq ary arz ast atj avk awa azb ban bar bat bbc bcc bci bdr
bew bgn bho bjn blk bpy bqi btm bug bxr cbk cdo ckb cpx crh csb dsb dtp dty dua egl eml ext fit fiu fon frc frp
frr fur gag gan gcf gcr gld glk gom gor gsw guc hak hif hke hrx hsb hsn hyw iba ike inh jut kaa kab kbd kbp kea
kge khw kiu kjh kjp knc koi krc krl ksh ksw kum lad lbe lez lij liv ljp lki lld lmo lrc ltg lua luz lzh lzz mad
mag mai map mdf mhr min mnc mnw mo mrj mui mwl myv mzn nah nan nap nds nia non nrf nrm nyn nyo olo pcd pdc pdt
pfl pms pnt pwn qug rgn rmy roa rsk rue rup ruq rut sah scn sdc sdh ses sgs shi shy sjd skr sli sma smn srn sro
stq sty szl szy tay tcy tet trv ttj tyv udm vec vep vls vmf vmw vot vro wls wuu xal xmf yue
"""
LANGUAGES = frozenset(_CODES.split())


def check_language(language: str) -> None:
    """Raises LongalignError: not the code of a language that sentencex knows."""
    primary = re.split("[-_]", language)[0].lower()
    if primary in LANGUAGES:
        return
    raise LongalignError(
        f"language {language!r} is unknown: give its code of two letters (ISO 639-1), such as en, de, pt-BR or zh"
    )


def sentence_ends(text: str, language: str) -> list[int]:
    """Where the sentences of ``text`` end, ascending.

    Args:
        language: chooses the abbreviations that do not end a sentence (`longalign.encoding.segments.Segmenter`).
    """
    language = re.split("[-_]", language)[0].lower()
    readable = _WIDE_BLANK.sub(" ", text)
    ends: list[int] = []
    for start, end in _blocks(text):
        marker = _MARKER.match(text, start, end)
        ends += _block_ends(readable, start if marker is None else marker.end(), end, language)
    return sorted(set(ends))


def is_wrapped(lines: Sequence[str]) -> bool:
    """Whether lines are one paragraph of prose that was broken at a width.

    Two things have to hold. First, every break was needed: the first word of the next line would not have fitted, with
    the longest line as the width, and that is at least 40 characters. Second, at least half of the breaks stand within
    a sentence: the next line begins with a small letter.
    """
    width = max(len(line.rstrip()) for line in lines)
    if len(lines) < 2 or width < _NARROWEST:
        return False
    breaks = [(line.rstrip(), after.split(maxsplit=1)[0]) for line, after in pairwise(lines)]
    needed = all(len(line) + 1 + len(word) > width for line, word in breaks)
    return needed and 2 * sum(word[0].islower() for _, word in breaks) >= len(breaks)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """The lines of a text; those of a wrapped paragraph as one. A list item or a label begins a new paragraph."""
    paragraph: list[tuple[int, int]] = []
    previous = 0
    for line in _LINE.finditer(text):
        start, end = line.span()
        if not line[0].strip():
            continue
        between = text[previous:start]
        apart = between.count("\n") + between.count("\r") - between.count("\r\n") > 1 or "\u2029" in between
        if paragraph and (apart or _MARKER.match(line[0]) or _LABEL.match(line[0])):
            yield from _paragraph(text, paragraph)
            paragraph = []
        paragraph.append((start, end))
        previous = end
    if paragraph:
        yield from _paragraph(text, paragraph)


def _paragraph(text: str, lines: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if is_wrapped([text[start:end] for start, end in lines]):
        return [(lines[0][0], lines[-1][1])]
    return list(lines)


def _block_ends(text: str, start: int, stop: int, language: str) -> list[int]:
    """Sentence ends in ``text[start:stop]``; the last one is its end.

    A text longer than _READ_CHARS is read in overlapping windows. Each begins at the last sentence end that
    is far enough from the edge of the window before. Where there is none, it moves on and no cut is made.
    """
    ends: list[int] = []
    settled = start  # sentence ends up to here are known
    while (window := start + _READ_CHARS) < stop:
        edge = window - _MARGIN_CHARS
        found = [end for end in _read_ends(text, start, window, language) if settled < end <= edge]
        ends += found
        settled = found[-1] if found else edge
        start = settled if found else edge - _MARGIN_CHARS
    return [*ends, *(end for end in _read_ends(text, start, stop, language) if end > settled), stop]


def _read_ends(text: str, start: int, stop: int, language: str) -> Iterator[int]:
    """Sentence ends in ``text[start:stop]`` by sentencex, found again in the text.

    Its sentences join up to the text. If it dropped or changed a character, only that cut would be lost. A number alone
    ("2." in "A fox. 2. A dog.") is no sentence: it belongs to what follows.
    """
    for sentence in sentencex.segment(language, text[start:stop]):
        core = sentence.strip()
        at = text.find(core, start, stop)
        if core and at >= 0:
            start = at + len(core)
            if not _BARE_NUMBER.fullmatch(core):
                yield start
