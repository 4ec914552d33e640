"""Plotly's own script, packed into a page: plain it is 4.8 MB, packed 2 MB."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from markupsafe import Markup

MARK = "data-chart"  # an attribute of everything that the script draws
LEVEL = 4  # of gzip: the higher ones take up to twice as long and save up to 4 %


@cache
def plotly_script() -> Markup:
    """An element with the script in it, for `charts.js` to unpack and run; made once in a process."""
    spec = find_spec("plotly")  # finds it without importing: only this file of it is used
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    packed = base64.b64encode(gzip.compress(source.read_bytes(), LEVEL, mtime=0)).decode("ascii")
    return Markup('<script type="application/gzip" id="plotly">{}</script>').format(packed)
