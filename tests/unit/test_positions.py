"""Samples longer than the model can count."""

from __future__ import annotations

import pytest

from leyden.backbone.load import check_positions
from leyden.backbone.tiny import MAX_LENGTH, tiny_model
from leyden.settings.errors import ConfigError


def test_rotary_positions_beyond_the_limit_are_a_warning() -> None:
    model = tiny_model("llama")
    assert check_positions(model, MAX_LENGTH) is None
    warning = check_positions(model, MAX_LENGTH + 1)
    assert warning is not None
    assert f"tokenizer.max_length={MAX_LENGTH + 1} is above the {MAX_LENGTH} positions" in warning


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_learned_positions_beyond_the_limit_are_refused(architecture: str) -> None:
    model = tiny_model(architecture)
    assert check_positions(model, MAX_LENGTH) is None
    with pytest.raises(ConfigError, match=f"Set tokenizer.max_length={MAX_LENGTH} or less"):
        check_positions(model, MAX_LENGTH + 1)
