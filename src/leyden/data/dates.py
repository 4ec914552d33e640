"""A chat template that writes today's date is given a fixed one: else each day would have tokens of its own."""

from __future__ import annotations

import re
from datetime import date

from leyden.settings.errors import ModelError

FIXED = date(2024, 7, 26)  # what Llama's templates write where nothing tells them a date
NAME = "strftime_now"  # of the function that templates call, in the library and elsewhere
_CALL = re.compile(NAME + r"\(\s*(['\"])(?P<format>[^'\"]*)\1\s*\)")


def with_fixed_date(template: str) -> str:
    """The template with a function of its own in the place of the clock; one that asks for no date stays as it is.

    A run over midnight, one that is gone on with a day later, an export of it and hosts in other time zones all write
    the same tokens. The model is saved with this template.

    Args:
        template: in jinja.

    Raises:
        ModelError: the template asks for a date in a form that it computes.
    """
    if NAME not in template or f"macro {NAME}(" in template:
        return template
    forms = [call["format"] for call in _CALL.finditer(template)]
    if len(forms) < template.count(f"{NAME}("):
        raise ModelError(
            f"dataset.chat_template=true: the tokenizer's template calls {NAME} with a form that is no plain text, so "
            "the date cannot be fixed and each day would have other tokens. Use the text markers "
            "(dataset.chat_template=false)."
        )
    written = {form: FIXED.strftime(form) for form in forms}
    # The line break is one that the library takes away, and what follows begins a line as before.
    return f"{{% macro {NAME}(form) %}}{{{{ {written!r}[form] }}}}{{% endmacro %}}\n{template}"
