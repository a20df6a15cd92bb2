"""HTML and SVG from nested calls. What is not markup already is escaped, so nothing leaks in."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "meta"})
_UNCLOSED_IN_SVG = frozenset({"circle", "line", "path", "polyline", "polygon", "rect"})


class Markup(str):
    """Text that is already HTML or SVG."""

    __slots__ = ()


Child = str | int | float | Markup | None | Iterable["Child"]


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element. Attributes that are None or False are left out, True stands without a value.

    Underscores in names become hyphens and a trailing one is dropped: ``class_``, ``text_anchor``.
    """
    head = "".join([tag, *map(_attribute, attributes.items())])
    if tag in _VOID:
        return Markup(f"<{head}>")
    if tag in _UNCLOSED_IN_SVG and not children:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """All children one after another; strings that are no markup are escaped."""
    return Markup("".join(map(_text, children)))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, (str, int, float)):
        return html.escape(str(child))
    return join(*child)


def _attribute(item: tuple[str, str | float | bool | None]) -> str:
    name, value = item
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(shown)}"'
