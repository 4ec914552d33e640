"""Settings of the augmentation: what is changed at random in training, and never in evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from leyden.settings.base import Group, Probability

Chance = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Group):
    """How much of what the model reads is changed in training; every draw depends on seed, epoch and sample alone."""

    token_mask_probability: Probability = Field(description="Chance of each token to be hidden behind the mask token.")
    skip_parent_probability: Chance = Field(description="Chance of each earlier turn of a sample to be left out.")
    random_parent_probability: Chance = Field(description="Chance of a sample to get another row's turn in front.")
    neftune_noise_alpha: Annotated[float, Field(ge=0)] = Field(
        description="Noise on the embeddings, uniform in alpha / sqrt(length * width) around 0; 0: none."
    )
