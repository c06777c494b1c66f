"""Make text of strangers safe to show: characters that steer a terminal or hide are written as escapes.

Header text, names of files, AE titles and model cards come from outside. A control sequence among them would move
the cursor, colour or clear the screen, or make a line read differently from its bytes. Nothing else is changed: an
umlaut, a kanji and a joiner between letters stay as they are.
"""

from __future__ import annotations

import json
import re

LINE_END, TAB = "\n", "\t"

# C0, DEL and C1 (U+009B begins a sequence as ESC [ does); characters that hide or turn the writing direction; line and
# paragraph separators; fillers and tags; surrogates, with which Python keeps a file name that is not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str, *, keep: str = "") -> str:
    r"""Replace each unsafe character with its escape, such as ``\x1b``, except the characters of ``keep``.

    >>> visible("MÜLLER\x1b[2J\u202e")
    'MÜLLER\\x1b[2J\\u202e'
    """
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Write JSON that a program reads as usual and that is safe to look at: non-ASCII letters stay as they are."""
    # Unsafe characters can only stand within strings; the line ends between them come from the indent.
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSAFE.sub(lambda match: match[0] if match[0] == LINE_END else json.dumps(match[0])[1:-1], text)


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
