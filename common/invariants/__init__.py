"""Whether what is stored in Redis is what the scripts keep there.

Read-only, and safe on a live service: every job is looked at in one transaction, and a violation
counts only if a second look, a moment later, shows it again. The rules, by module:

    jobs           a record's fields, its place and the lifetimes of all that belongs to it
    streams        event ids, positions, the end, the result
    keyspace       names, types and TTLs of keys; lines, leases, trials, counters
    permit_supply  the broker's lists
"""

from common.invariants.checker import Checker, Report, check_invariants
from common.invariants.findings import Kind, Violation

__all__ = ["Checker", "Kind", "Report", "Violation", "check_invariants"]
