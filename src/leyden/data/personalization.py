"""Personalization: the names that assistants and their makers give themselves in public chat data become your own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from leyden.data.texts import Texts

ROLES = ("prompt", "answer")  # system texts and worse answers stay as they are
# Open Assistant's conversations were written for one assistant, by people who at times asked another.
ASSISTANTS = ("Open Assistant", "OpenAssistant", "Open-Assistant", "Chat GPT", "Chat-GPT", "ChatGPT")
AUTHORS = (
    "Large-scale Artificial Intelligence Open Network", "LAION e.V.", "LAION-AI", "LAION AI", "LAION", "OpenAI",
)  # fmt: skip
# As words of English these mean something else in lower case, or away from an introduction.
INTRODUCED = r"(?:(?<=\bI am )|(?<=\bI'm )|(?<=\bI’m )|(?<=\bname is ))Assistant"
SPELT = r"Open AI"
HINTS = ("assist", "gpt", "laion", "openai", "open ai", "large-scale")
# Not \b: Chinese and Japanese put no space beside a name. Links, handles and data sets such as LAION-5B are left alone.
BEFORE, AFTER = r"(?<![A-Za-z0-9_/.@#-])", r"(?![A-Za-z0-9_/]|[.-][A-Za-z0-9])"


def personalized(texts: Mapping[str, Texts[str]], name: str, author: str) -> tuple[dict[str, Texts[str]], str]:
    """Put a name for those of known assistants, and an author for those of their makers, in prompts and answers.

    Args:
        texts: by role, one per row; other roles come back unchanged.
        name: `dataset.chatbot_name`.
        author: `dataset.chatbot_author`.

    Returns:
        The texts, and how many of them changed, in words.
    """
    found = dict(texts)
    changed = {}
    for role in ROLES:
        if role in texts:
            found[role] = Texts.of(_replaced(text, name, author) for text in texts[role])
            changed[role] = sum(new != old for new, old in zip(found[role], texts[role], strict=True))
    counts = " and ".join(f"{count} of {len(texts[role])} {role}s" for role, count in changed.items())
    return found, f"changed {counts}"


def _replaced(text: str, name: str, author: str) -> str:
    lower = text.lower()
    if not any(hint in lower for hint in HINTS):  # many times faster than the expression
        return text
    return KNOWN.sub(lambda match: name if match["assistant"] else author, text)


def _any(words: Sequence[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


KNOWN = re.compile(
    f"{BEFORE}(?:(?P<assistant>(?i:{_any(ASSISTANTS)})|{INTRODUCED})|(?i:{_any(AUTHORS)})|{SPELT}){AFTER}"
)
