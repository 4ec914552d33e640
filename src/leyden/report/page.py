"""One self-contained page: sections in a shell with navigation, style and scripts, and nothing from anywhere else."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from leyden.report.plotly_script import MARK, plotly_script

PAGES = Path(__file__).parent / "pages"
IN_SCRIPT = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
UNSHOWN = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}  # control pictures
SIGNS = {"\n": "↵\n", "\t": "⇥", "\r": "␍"}
UNSEEN = ("Cf", "Zl", "Zp", "Co", "Cn", "Cs")  # Unicode's formatting, separators, private use, unassigned, surrogates
SURROGATE = re.compile("[\ud800-\udfff]")
SHORT_FORMS = {
    "auc": "AUC", "bleu": "BLEU", "chrf": "chrF", "f1": "F1", "gpt": "GPT", "mae": "MAE", "mse": "MSE", "r2": "R²",
    "rouge": "ROUGE",
}  # fmt: skip
UNUSUAL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        id: of its element; `pages/ID.css` and `pages/ID.js`, where there are such, go into the page with it.
        title: its heading, and its name in the navigation.
        body: as HTML; from `fill`, which escapes everything that is filled in.
        lead: a sentence below the heading.
        assets: further files of `pages/`, by their names without ending, that go in before its own.
    """

    id: str
    title: str
    body: Markup
    lead: str = ""
    assets: Sequence[str] = ()


def render_page(title: str, sections: Sequence[Section], *, kind: str = "Leyden", subtitle: str = "") -> str:
    """A whole page, as text that UTF-8 can write.

    Args:
        title: of the page.
        sections: in their order; with more than one there is a navigation.
        kind: what sort of page it is, above the title.
        subtitle: below it.
    """
    names = dict.fromkeys(name for one in sections for name in (*one.assets, one.id))
    styles = [_asset("page.css"), *(_asset(f"{name}.css") for name in names)]
    scripts = [_asset("page.js"), *(_asset(f"{name}.js") for name in names)]
    draws = any(MARK in one.body for one in sections)
    body = fill(
        "body", title=title, kind=kind, subtitle=subtitle, sections=sections,
        plotly=plotly_script() if draws else Markup(),
    )  # fmt: skip
    if draws:
        scripts.insert(1, _asset("charts.js"))
    # Only scripts with this word run: text that got into the page as markup, against all care, could not know it.
    nonce = hashlib.sha256(body.encode()).hexdigest()[:32]
    page = str(
        fill(
            "page", title=title, kind=kind, nonce=nonce, body=body,
            style=Markup("\n".join(filter(None, styles))), scripts=[Markup(one) for one in scripts if one],
        )
    )  # fmt: skip
    return SURROGATE.sub("\ufffd", page).replace("\0", "\u2400")


def write_page(path: Path, page: str) -> None:
    """Write a page so that a browser finds the old one or the new one, never a part.

    Args:
        path: of the file.
        page: from `render_page`.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")  # a run and a reader may both be writing it
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not _lives(left.name.split(".")[-2]):  # it was killed while it wrote
            left.unlink(missing_ok=True)
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):  # someone else's, or no draft of ours
        return True
    return True


def fill(template: str, **values: Any) -> Markup:
    """A template of `pages/` with values in it: text is escaped, and signs that no page can hold are shown as others.

    Args:
        template: its name without `.html.j2`.
        **values: what it asks for.

    Raises:
        UndefinedError: it asks for one that is not given.
    """
    return Markup(_environment().get_template(f"{template}.html.j2").render(**values))


def json_script(id: str, value: Any) -> Markup:  # noqa: A002
    """A value for scripts to read, in an element of that id; `leyden.read(id)` gives it back.

    Numbers that are not finite become null, as JSON has none.
    """
    return Markup('<script type="application/json" id="{}">{}</script>').format(id, script_text(value))


def script_text(value: Any) -> Markup:
    """A value as JSON that may stand inside an element of scripts: nothing in it ends the element or begins another."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, escaped in IN_SCRIPT.items():  # many times faster than `translate`, and these are megabytes
        text = text.replace(sign, escaped)
    return Markup(text)


def shown(text: str) -> str:
    """Text as a page can hold it: control characters as their pictures, halves of surrogate pairs as U+FFFD."""
    return SURROGATE.sub("\ufffd", text).translate(UNSHOWN) if UNUSUAL.search(text) else text


def visible(text: str) -> str:
    """A text with signs for line ends and tabs, and code points in place of what only steers how text is shown."""
    return "".join(SIGNS.get(letter) or _seen(letter) for letter in text)


def _seen(letter: str) -> str:
    return f"⟨U+{ord(letter):04X}⟩" if unicodedata.category(letter) in UNSEEN else letter


def number(value: Any, digits: int = 4) -> str:
    """A number for people: `12,345`, `0.1235`, `1.235e-05`; a dash for none or one that is not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):  # noqa: PLR2004
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.{digits - 1}e}" if size < 1e-3 else f"{value:.{digits}g}"  # noqa: PLR2004


def words(name: str) -> str:
    """A name of the code for people: `reward_margin` is `reward margin`, `auc` is `AUC`."""
    return " ".join(SHORT_FORMS.get(part, part) for part in name.split("_"))


def heading(name: str) -> str:
    """The same, with a large first letter where it is a word."""
    said = words(name)
    return said if name.partition("_")[0] in SHORT_FORMS else said[:1].upper() + said[1:]


def duration(seconds: float | None) -> str:
    """A time for people: `42 s`, `3 min 20 s`, `2 h 5 min`; a dash for none."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("leyden.report", "pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_finalized,
    )  # fmt: skip
    made.filters |= {"number": number, "duration": duration, "visible": visible, "words": words}
    return made


def _finalized(value: Any) -> Any:
    """What a template writes for a value."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    return shown(value)


@cache
def _asset(name: str) -> str:
    path = PAGES / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {shown(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
