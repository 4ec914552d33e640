"""What every settings group has in common: strict types, no unknown keys, no change after reading."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Group(BaseModel):
    """A closed group: every key is a field, the YAML holds the default, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OpenGroup(BaseModel):
    """A group that names a function or class: known knobs are checked here, the rest goes to the target as it is."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True)

    @property
    def knobs(self) -> dict[str, object]:
        """Every key that the target has beyond the fields that are declared here."""
        return dict(self.model_extra or {})


class Verbatim:
    """Marks a field of free text: on the command line its value is taken as it was typed, signs and all."""


Share = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
