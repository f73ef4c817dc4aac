"""HTML from Python, in which a text is escaped unless it is markup already."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"br", "hr", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML; every other text is escaped where it is put in."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """`<name attributes>content</name>`.

    Args:
        name: of the element.
        content: markup, or text to escape.
        attributes: `aria_label` is `aria-label` and `class_` is `class`; those that are None are left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: str) -> Markup:
    """Pieces one after another, those that are no markup escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in content))
