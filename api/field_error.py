"""What is wrong between the fields of a body, for its validators."""

from __future__ import annotations


class FieldError(ValueError):
    """What is wrong with a body as a whole.

    Attributes:
        param: The field at fault.
    """

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param} {problem}")
        self.param = param
