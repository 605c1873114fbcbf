"""A picture with its sentences below it, each with its score, the wrong ones marked."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from longalign.preference.scores import SegmentScore

_LEAST_WIDTH_PX = 512
_SIZE_PX = 15
_MARGIN_PX = 10
_INK, _PAPER, _QUIET = "#1a1a1a", "#ffffff", "#8a8a8a"
_COLOURS = {"false": "#c62828", "doubtful": "#b26a00", "true": "#2e7d32"}


def verdicts_of(segments: Sequence[SegmentScore]) -> list[str]:
    """``true``, ``doubtful`` or ``false`` for each sentence, or empty.

    A model with a calibration says it. Without one only the lowest sentence is marked, as ``false``, and only where
    there are several.

    Args:
        segments: the sentences of one picture.
    """
    if any(segment.verdict is not None for segment in segments):
        return [segment.verdict or "" for segment in segments]
    worst = min(range(len(segments)), key=lambda i: segments[i].best)
    return ["false" if i == worst and len(segments) > 1 else "" for i in range(len(segments))]


def marked(picture: Image.Image, segments: Sequence[SegmentScore]) -> Image.Image:
    """The picture above a list of its sentences. Small pictures are enlarged to 512 px.

    All pictures of one size and one prompt give results of one size.

    Args:
        picture: of any size.
        segments: its sentences with their scores.
    """
    factor = max(-(-_LEAST_WIDTH_PX // picture.width), 1)
    picture = picture.convert("RGB").resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC
    )
    font = ImageFont.load_default(_SIZE_PX)
    # Of wide pictures the text takes the whole width.
    indent = _MARGIN_PX + 78
    wrapped = [_wrapped(segment.text, font, picture.width - indent - _MARGIN_PX) for segment in segments]
    line_px = round(_SIZE_PX * 1.45)
    height = 2 * _MARGIN_PX + sum(len(lines) * line_px + 4 for lines in wrapped)
    page = Image.new("RGB", (picture.width, picture.height + height), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    y = picture.height + _MARGIN_PX
    for segment, lines, verdict in zip(segments, wrapped, verdicts_of(segments), strict=True):
        colour = _COLOURS.get(verdict, _INK)
        _draw_sign(draw, (_MARGIN_PX, y + 3), verdict)
        draw.text((_MARGIN_PX + 22, y), f"{segment.best:6.1f}", fill=colour, font=font)
        for line in lines:
            draw.text((indent, y), line, fill=colour, font=font)
            y += line_px
        y += 4
    return page


def _draw_sign(draw: ImageDraw.ImageDraw, at: tuple[int, int], verdict: str) -> None:
    """A tick, a cross or a ring: colours alone do not tell everyone."""
    x, y = at
    colour = _COLOURS.get(verdict, _QUIET)
    if verdict == "false":
        draw.line([(x, y), (x + 11, y + 11)], fill=colour, width=3)
        draw.line([(x, y + 11), (x + 11, y)], fill=colour, width=3)
    elif verdict == "true":
        draw.line([(x, y + 6), (x + 4, y + 11), (x + 12, y)], fill=colour, width=3, joint="curve")
    elif verdict == "doubtful":
        draw.ellipse([(x, y), (x + 11, y + 11)], outline=colour, width=2)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
