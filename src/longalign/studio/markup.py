"""The studio's results as HTML. Whatever a prompt or a file name contains is shown as text."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote

from markupsafe import Markup, escape
from PIL import Image

from longalign.report import Curve, counted
from longalign.report.curve import line_plot
from longalign.studio.browse import Run
from longalign.studio.check import Checked, CheckedMany
from longalign.studio.cut import Cut, CutSentence
from longalign.studio.draw import Drawing, Shown
from longalign.studio.edit import Edited
from longalign.studio.repair import Mended
from longalign.studio.stepping import Progress
from longalign.studio.verdicts import Judged

_SIGNS = {"true": "✓", "false": "✕", "unclear": "?", "unjudged": "·"}
_WORDS = {"true": "true", "false": "false", "unclear": "doubtful", "unjudged": "not judged"}
_WORST = 50  # pictures of a folder that are shown


def address(file: str) -> str:
    """The address of a file in the folder of runs.

    Args:
        file: its path there.
    """
    return "/runs/" + quote(file)


def small(image: Image.Image, side_px: int = 256) -> str:
    """A picture within the page, as a JPEG.

    Args:
        image: the picture; it is not changed.
        side_px: longer side.
    """
    image = image.convert("RGB")
    image.thumbnail((side_px, side_px))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _join(parts: Sequence[Markup | str]) -> Markup:
    return Markup("").join(parts)


def wrapped(body: Markup, name: str) -> str:
    """A part of the page.

    Args:
        body: its content.
        name: a CSS class.
    """
    return str(Markup('<div class="la {}">{}</div>').format(name, body))


def cut_html(cut: Cut) -> str:
    """The sentences of a prompt with their tokens; what the plain encoding loses is greyed.

    Args:
        cut: the prompt.
    """
    if not cut.sentences:
        hint = Markup('<p class="hint">Sentences and their tokens appear here while you write.</p>')
        return wrapped(hint, "cut")
    words = f"{counted(len(cut.sentences), 'sentence')}, {counted(cut.tokens, 'token')}."
    if cut.lost:
        words += (
            f" The plain encoding reads {cut.window} tokens: it would lose {counted(cut.lost, 'sentence')}, at least "
            "in part (grey). Segment by segment, nothing is lost."
        )
    else:
        words += f" All of it fits the window of {cut.window} tokens."
    items = [_cut_item(number, sentence) for number, sentence in enumerate(cut.sentences, 1)]
    note = Markup("")
    if cut.notation:
        note = Markup('<p class="hint">This looks like weights. Choose the notation (a1111 or compel), or they are '
                      "read as text.</p>")  # fmt: skip
    return wrapped(Markup("<p>{}</p>{}<ol>{}</ol>").format(words, note, _join(items)), "cut")


def _cut_item(number: int, sentence: CutSentence) -> Markup:
    text = sentence.text
    lost = len(text) if sentence.lost_from is None else min(sentence.lost_from, len(text))
    edges = sorted({0, len(text), lost, *(e for a, b, _ in sentence.weights for e in (a, b))})
    pieces = []
    for a, b in pairwise(edges):
        weight = next((w for first, last, w in sentence.weights if first <= a < last), None)
        piece = escape(text[a:b])
        if weight is not None:
            piece = Markup('<b class="weight">{}<sup>×{}</sup></b>').format(piece, f"{weight:g}")
        pieces.append(Markup('<span class="lost">{}</span>').format(piece) if a >= lost else piece)
    kind = "" if sentence.lost_from is None else "gone" if lost == 0 else "partly"
    return Markup('<li class="{}"><span>{}</span><small title="tokens">{}</small></li>').format(
        kind, _join(pieces), sentence.tokens
    )


def progress_html(progress: Progress) -> str:
    """A bar with what is done now, and the preview.

    Args:
        progress: how far a job is.
    """
    share = round(100 * min(1.0, max(0.0, progress.share)))
    preview = Markup("")
    if progress.preview is not None:
        preview = Markup('<img src="{}" alt="preview of the picture">').format(small(progress.preview))
    body = Markup(
        '<div role="status"><progress max="100" value="{}" aria-label="progress"></progress><p>{}</p></div>{}'
    )
    return wrapped(body.format(share, progress.message, preview), "progress")


def message_html(text: str, kind: str = "note") -> str:
    """A message.

    Args:
        text: its words.
        kind: ``note`` or ``error``.
    """
    role = "alert" if kind == "error" else "status"
    return wrapped(Markup('<p role="{}">{}</p>').format(role, text), kind)


def drawing_html(drawing: Drawing) -> str:
    """The pictures of a job side by side, each with its sentences.

    Args:
        drawing: the result.
    """
    cards = [_card(shown) for shown in drawing.shown]
    cut = Markup("")
    if drawing.cut:
        cut = Markup('<p class="hint">Left out: {}</p>').format("; ".join(drawing.cut))
    return wrapped(
        Markup('{}<div class="cards n{}">{}</div>{}').format(cut, min(3, len(cards)), _join(cards), legend()),
        "drawing",
    )


def _tally(rows: Sequence[Judged]) -> str:
    judged = [row for row in rows if row.verdict != "unjudged"]
    if not judged:
        return counted(len(rows), "sentence")
    return f"{sum(row.verdict == 'true' for row in judged)} of {counted(len(judged), 'sentence')} true"


def _card(shown: Shown) -> Markup:
    width, height = shown.size
    tally = " · ".join(part for part in (_tally(shown.sentences), shown.note) if part)
    maps = (
        {row.text: shown.maps.data_uri(row.text) for row in shown.sentences} if shown.maps is not None else {}
    )
    return Markup(
        '<figure class="card"><div class="picture{}"><img src="{}" width="{}" height="{}" alt="picture: {}">'
        '<img class="map" alt="" hidden></div>'
        "<figcaption><b>{}</b><span>{}</span></figcaption>{}</figure>"
    ).format(
        " small" if max(shown.size) <= 128 else "",
        address(shown.file),
        width,
        height,
        shown.label,
        shown.label,
        tally,
        sentences_list(shown.sentences, {k: v for k, v in maps.items() if v}),
    )


def sentences_list(rows: Sequence[Judged], maps: Mapping[str, str] | None = None) -> Markup:
    """The sentences of a picture in the colours of their verdicts.

    Args:
        rows: judged.
        maps: text → address of the map that is laid over the picture.
    """
    maps = maps or {}
    items = []
    for row in rows:
        number = "" if row.probability is None else f"{row.probability:.0%}"
        if not number and row.score is not None:
            number = f"{row.score:.1f}"
        other = ""
        if row.oracle != "unjudged" and row.oracle != row.verdict:
            other = f"the oracle says {_WORDS[row.oracle]}"
        inner = Markup(
            '<span class="sign" aria-hidden="true">{}</span>'
            '<span class="words"><span class="unseen">{}: </span>{}{}</span><span class="number">{}</span>'
        ).format(
            _SIGNS[row.verdict],
            _WORDS[row.verdict],
            row.text,
            Markup(" <em>{}</em>").format(other) if other else "",
            number,
        )
        if row.text in maps:
            item = Markup(
                '<button type="button" class="sentence" aria-pressed="false" data-map="{}">{}</button>'
            )
            items.append(
                Markup('<li class="{}">{}</li>').format(row.verdict, item.format(maps[row.text], inner))
            )
        else:
            items.append(
                Markup('<li class="{}"><div class="sentence">{}</div></li>').format(row.verdict, inner)
            )
    return Markup('<ol class="sentences">{}</ol>').format(_join(items))


def legend() -> Markup:
    """What the signs mean."""
    items = [
        Markup('<li class="{}"><span class="sign" aria-hidden="true">{}</span> {}</li>').format(
            kind, sign, _WORDS[kind]
        )
        for kind, sign in _SIGNS.items()
        if kind != "unjudged"
    ]
    hint = "Point at a sentence, or choose it by the Tab key, to see where it was looked at."
    return Markup('<ul class="legend">{}<li>{}</li></ul>').format(_join(items), hint)


def checked_html(checked: Checked) -> str:
    """The sentences of a picture that was checked.

    Args:
        checked: the result.
    """
    false = [row.text for row in checked.sentences if row.verdict == "false"]
    words = f"{_tally(checked.sentences)}." + (f" False: {' '.join(false)}" if false else "")
    return wrapped(
        Markup('<p role="status">{}</p>{}').format(words, sentences_list(checked.sentences)), "checked"
    )


def many_html(many: CheckedMany) -> str:
    """Pictures with their sentences, the worst first.

    Args:
        many: the result.
    """
    cards = []
    for one in many.pictures[:_WORST]:
        with Image.open(one.path) as image:
            shown = small(image)
        cards.append(
            Markup(
                '<figure class="card row"><div class="picture"><img src="{}" alt="{}"></div>'
                "<div><figcaption><b>{}</b><span>{}</span></figcaption>{}</div></figure>"
            ).format(shown, one.name, one.name, _tally(one.sentences), sentences_list(one.sentences))
        )
    words = f"{counted(len(many.pictures), 'picture')}, the one with the lowest sentence first."
    if len(many.pictures) > _WORST:
        words += f" The first {_WORST} are shown."
    failed = _join([Markup("<li>{}: {}</li>").format(name, reason) for name, reason in many.failures[:100]])
    if failed:
        failed = Markup(
            "<details open><summary>{} could not be checked</summary><ul>{}</ul></details>"
        ).format(counted(len(many.failures), "file"), failed)
    return wrapped(Markup('<p role="status">{}</p>{}{}').format(words, failed, _join(cards)), "many")


def slider(before: str, after: str, size: tuple[int, int], words: tuple[str, str]) -> Markup:
    """Two pictures over each other with a slider between them, in one box.

    Args:
        before, after: their addresses.
        size: width and height in pixels.
        words: what they are.
    """
    return Markup(
        '<div class="box"><div class="slider picture{}" style="--at: 50%">'
        '<img src="{}" alt="{}" width="{}" height="{}"><img class="over" src="{}" alt="{}">'
        '<input type="range" min="0" max="100" value="50" '
        'aria-label="{} or {}"></div><p class="ends"><span>{}</span><span>{}</span></p></div>'
    ).format(
        " small" if max(size) <= 128 else "",
        before,
        words[0],
        *size,
        after,
        words[1],
        *words,
        *words,
    )


def edited_html(edited: Edited) -> str:
    """Before and after with a slider, the difference, and the sentences of the target.

    Args:
        edited: the result.
    """
    before, after, difference = (address(edited.file(name)) for name in ("before", "after", "difference"))
    width, height = edited.size
    body = Markup(
        '<p role="status">{}</p><div class="cards n2"><figure class="card">{}<figcaption><b>Before and after</b>'
        "<span>{}</span></figcaption>{}</figure>"
        '<figure class="card"><div class="picture{}"><img src="{}" alt="difference" width="{}" height="{}"></div>'
        "<figcaption><b>Difference</b><span>black: nothing changed</span></figcaption></figure></div>"
    ).format(
        edited.verdict or "The picture was edited.",
        slider(before, after, edited.size, ("before", "after")),
        f"after: {_tally(edited.sentences['after'])} (before: {_tally(edited.sentences['before'])})",
        sentences_list(edited.sentences["after"]),
        " small" if max(edited.size) <= 128 else "",
        difference,
        width,
        height,
    )
    return wrapped(body, "drawing")


def mended_html(mended: Mended) -> str:
    """Before and after a repair with a slider, the region that was drawn again, and the sentences.

    Args:
        mended: the result.
    """
    if not mended.changed:
        words = (
            "No sentence is doubtful." if not mended.rounds else "No round made the picture better: it stays."
        )
        return message_html(words)
    before, after = address(mended.file("before")), address(mended.file("after"))
    gained = [
        row.text
        for row, old in zip(mended.sentences["after"], mended.sentences["before"], strict=True)
        if row.verdict == "true" != old.verdict
    ]
    words = f"{counted(mended.rounds, 'round')} of repair, {counted(mended.calls, 'denoiser call')}."
    if gained:
        words += f" Now true: {' '.join(gained)}"
    body = Markup(
        '<h3>Repair</h3><p role="status">{}</p><div class="cards n1"><figure class="card">{}'
        "<figcaption><b>Before and after</b><span>after: {} (before: {})</span></figcaption>{}</figure></div>"
    ).format(
        words,
        slider(before, after, mended.size, ("before", "after")),
        _tally(mended.sentences["after"]),
        _tally(mended.sentences["before"]),
        sentences_list(mended.sentences["after"]),
    )
    return wrapped(body, "drawing mended")


def runs_html(runs: Sequence[Run]) -> str:
    """A table of runs.

    Args:
        runs: the newest first.
    """
    if not runs:
        return wrapped(Markup('<p class="hint">There are no runs yet. Draw something.</p>'), "runs")
    rows = [
        Markup("<tr><th scope=row>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            run.name,
            run.command + (" (running)" if run.running else ""),
            run.pictures or "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when)),
        )
        for run in runs[:50]
    ]
    names = ("run", "command", "pictures", "changed")
    head = _join([Markup('<th scope="col">{}</th>').format(name) for name in names])
    return wrapped(
        Markup(
            '<div class="scroll" tabindex="0" role="region" aria-label="runs"><table>{}{}</table></div>'
        ).format(Markup("<tr>{}</tr>").format(head), _join(rows)),
        "runs",
    )


def run_html(run: Run, curves: Sequence[Curve]) -> str:
    """A run: its curves, and its page.

    Args:
        run: the run.
        curves: of `longalign.studio.browse.curves_of`.
    """
    parts = [
        Markup("<section><h3>{}</h3>{}</section>").format(curve.caption, line_plot(curve)) for curve in curves
    ]
    body = Markup('<div class="curves">{}</div>').format(_join(parts)) if parts else Markup("")
    if run.report:
        page = address(f"{run.name}/report.html")
        body += Markup(
            '<p><a href="{}" target="_blank">Open the report in a tab of its own</a></p>'
            '<iframe src="{}" title="report of {}" sandbox="allow-same-origin"></iframe>'
        ).format(page, page, run.name)
    elif not parts:
        body = Markup('<p class="hint">This run has no report.</p>')
    return wrapped(body, "run")


def snippet_html(command: str, python: str) -> str:
    """What the page just did, to be copied.

    Args:
        command: for a terminal.
        python: for a program.
    """
    parts = [
        Markup(
            '<details><summary>Copy as {}</summary><pre tabindex="0">{}</pre>'
            '<button type="button" class="copy">Copy</button><span role="status"></span></details>'
        ).format(name, text)
        for name, text in (("command", command), ("Python", python))
    ]
    return wrapped(_join(parts), "snippets")
