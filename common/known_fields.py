"""Reading records of a later version: fields that this one does not know are passed over.

For what workers tell gateways, so that an older gateway serves beside newer workers while both are
upgraded. Not for what a job asks for: leaving out a wish silently would be worse than refusing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def of_known(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass's object from those of the values that are its fields."""
    names = {each.name for each in fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
    return cls(**{name: value for name, value in values.items() if name in names})
