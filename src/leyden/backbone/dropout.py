"""One probability for every dropout that a model's config has, whatever its family calls it."""

from __future__ import annotations

import re

from transformers import PreTrainedConfig

# attention_dropout, resid_pdrop, dropout_rate, hidden_dropout_prob, seq_classif_dropout; not layerdrop, drop_path_rate.
_FIELD = re.compile(r"(.+_)?(dropout(_rate|_prob|_p)?|pdrop)")


def set_dropout(config: PreTrainedConfig, probability: float) -> list[str]:
    """Set every dropout probability of a config, and of the configs inside it.

    A field that is None, such as a classifier's own dropout in some families, stands for another one and is left alone.

    Args:
        config: changed in place, before a model is made of it.
        probability: >= 0, < 1.

    Returns:
        The fields that were set; those of an inner config after its name and a dot.
    """
    found = []
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            found += [f"{name}.{inner}" for inner in set_dropout(value, probability)]
        elif _FIELD.fullmatch(name) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, probability)
            found.append(name)
    return found
