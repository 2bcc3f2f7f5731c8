"""HTML pages from the templates of a room. What is put into one is escaped, unless it is markup by its type."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from fastat.support.files import write_bytes


def render(room: str, template: str, **values: object) -> str:
    """A page from the folder ``templates`` of a room; it may extend and import those of :mod:`fastat.report`."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (room, "fastat.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"base64": _base64, "percent": _percent, "plain": plain}
    return environment.get_template(template).render(values)


def save(page: str, path: str | Path) -> Path:
    """Writes a page to the file, whose folder is made if missing, and returns its path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, page.encode())
    return target


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _percent(share: float) -> str:
    return f"{share:.1%}"


def plain(value: object) -> str:
    """A setting as text."""
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
