"""The engine's errors.

EngineError
├── DeviceLostError   no forward pass works any more; the engine is of no further use
├── ModelLoadError    a model that cannot be served; one line says why
└── RequestError      one request that cannot run; carries the code for its Output
"""


class EngineError(Exception):
    """Anything that the engine raises on purpose."""


class DeviceLostError(EngineError):
    """Every sequence fails, each alone: the fault is not in a request."""


class ModelLoadError(EngineError):
    """The model cannot be served. The message is one line for a person to read."""


class RequestError(EngineError):
    """One request cannot run; no other request is affected.

    Attributes:
        code: Machine-readable, such as `invalid_request` or `non_finite_logits`.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code
