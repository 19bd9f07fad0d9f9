"""Jobs as the submit script takes them: of each its id, the number of fields, field, value, ..."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from common.schemas import JobSpec

INLINE_SIZE = 65_536
"""Token ids, or characters, that are packed on the event loop: within some milliseconds."""


async def submit_args(specs: Sequence[JobSpec]) -> list[str]:
    """The arguments; what takes long to pack is packed in a thread."""
    size = sum(len(each) for spec in specs for each in spec.inputs or ())
    if size <= INLINE_SIZE:
        return _flat(specs)
    return await asyncio.to_thread(_flat, specs)


def _flat(specs: Sequence[JobSpec]) -> list[str]:
    flat: list[str] = []
    for spec in specs:
        fields = spec.to_fields()
        flat += [spec.job_id, str(len(fields)), *(part for pair in fields.items() for part in pair)]
    return flat
