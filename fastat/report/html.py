"""The parts that our HTML pages share. Pages have no script and load nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
small { color: #555; display: block; } thead th { background: #f3f3f3; }
svg, img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { color: #444; font-size: .9rem; }
.wide > svg, .wide > img { min-width: 44rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
summary { cursor: pointer; margin: .6rem 0; } tr.differs th { background: #fff3d6; }
td.verdict { white-space: nowrap; font-weight: 600; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of these parts, HTML each."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table of these rows, HTML each, which a narrow window scrolls; the head is plain text."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def figure(image: str, caption: str) -> str:
    """An image with a caption, HTML both."""
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def wide(image: str, caption: str) -> str:
    """A figure that a narrow window scrolls: it would be too small to read."""
    return figure(f'<div class="scroll wide">{image}</div>', caption)


def png(content: bytes, text: str) -> str:
    """The content of a PNG file as an image within the page; text says what it shows."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def plain(value: object) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
