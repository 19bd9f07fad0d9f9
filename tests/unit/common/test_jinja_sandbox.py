"""Templates that would take for ever, or everything: each ends by a limit, and soon.

The clock stands, or moves on whenever it is read: no test waits, and none depends on the machine.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from common.chat_template import ChatTemplate, RenderingTooLongError
from common.errors import InvalidRequestError
from common.jinja_sandbox.budget import Budget, LimitError, TimeLimitError
from common.jinja_sandbox.environment import BoundedEnvironment

CHECKS = 1000


def rendered(source: str, *, has_time: bool = True, **variables: Any) -> str:
    environment = BoundedEnvironment()
    template = environment.from_string(source)
    ticks = count(step=0 if has_time else 1)
    with environment.spending(Budget(CHECKS, clock=lambda: float(next(ticks)))):
        return template.render(**variables)


def growing(change: str, first: str = "'ab'", rounds: int = 100) -> str:
    """A template that changes `ns.x` again and again."""
    return (
        f"{{% set ns = namespace(x={first}) %}}{{% for i in range({rounds}) %}}"
        f"{{% set ns.x = {change} %}}{{% endfor %}}{{{{ ns.x }}}}"
    )


FOR_EVER = {
    "nested loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "loops that filter": "{% for a in range(99999) %}{% for b in range(99999) if false %}"
    "{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}"
    "{% endif %}{% endmacro %}{{ m(60) }}",
    "a caller": "{% macro m() %}{% for i in range(9999) %}{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call m() %}{% for i in range(99999) %}{% endfor %}{% endcall %}",
    "comparisons of long texts": "{% for i in range(99999) %}"
    "{% if messages[0] == messages[1] %}{% endif %}{% endfor %}",
    "searches in long lists": "{% set x = ['a'] * 9999 %}{% for i in range(99999) %}"
    "{% if 'b' in x %}{% endif %}{% endfor %}",
    "sorting": "{% set x = range(500) | list %}{% for i in range(99999) %}"
    "{% set y = x | sort %}{% endfor %}",
    "tests by name": "{% for i in range(99999) %}"
    "{{ messages | select('eq', messages[0]) | list | length }}{% endfor %}",
}


@pytest.mark.parametrize("source", FOR_EVER.values(), ids=FOR_EVER)
def test_what_never_ends_runs_out_of_time(source: str) -> None:
    texts = ["a" * 100_000, "a" * 100_000 + "b"]
    with pytest.raises(TimeLimitError):
        rendered(source, has_time=False, messages=texts)


TOO_MUCH = {
    "a text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times a text": "{{ 10 ** 10 * 'a' }}",
    "a list times a number": "{{ [0] * 10 ** 9 }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "powers of powers": growing("ns.x ** 1000", "7"),
    "products": growing("ns.x * ns.x", "7"),
    "doubling by ~": growing("ns.x ~ ns.x"),
    "doubling by +": growing("ns.x + ns.x"),
    "doubling by a filter": growing("[ns.x, ns.x] | join"),
    "doubling by a format": growing("'%s%s' % (ns.x, ns.x)"),
    "doubling by blocks": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "lists of lists": growing("[ns.x, ns.x]", "[]"),
    "tuples of tuples": growing("(ns.x, ns.x)", "()"),
    "tuples of tuples as a key": growing("(ns.x, ns.x)", "()").replace(
        "{{ ns.x }}", "{{ {}.get(ns.x) }}"
    ),
    "mappings of mappings": growing("{'a': ns.x, 'b': ns.x}", "{}"),
    "dicts of dicts": growing("dict(a=ns.x, b=ns.x)", "{}"),
    "fromkeys": growing("dict.fromkeys([1, 2], ns.x)", "{}"),
    "lists of a mapped default": growing(
        "[none, none] | map('default', ns.x, true) | list", "[none]"
    ),
    "varargs of varargs": "{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% else %}"
    "{{ {}.get(varargs) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "center": "{{ 'a' | center(10 ** 10) }}",
    "str.center": "{{ 'a'.center(10 ** 10) }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "zfill": "{{ 'a'.zfill(10 ** 10) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10 ** 10) }}",
    "a width in %": "{{ '%1000000000d' % 1 }}",
    "a width in the filter": "{{ '%1000000000d' | format(1) }}",
    "a width in braces": "{{ '{:1000000000}'.format(1) }}",
    "a width in a mapping": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "a width as an argument of %": "{{ '%*d' % (10 ** 9, 1) }}",
    "a width as an argument in braces": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "a format that repeats": "{{ ('{0}' * 10000).format('a' * 100000) }}",
    "indent": "{{ ('a\\n' * 100000) | indent(1000) }}",
    "indent by a text": "{{ ('a\\n' * 10000) | indent('b' * 10000) }}",
    "replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "str.replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "join": "{{ ('a' * 100000) | join('b' * 100000) }}",
    "str.join": "{{ ('b' * 100000).join('a' * 100000) }}",
    "batch": "{{ [1] | batch(10 ** 9, 'a') | list }}",
    "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "round": "{{ 1 | round(10 ** 8, 'ceil') }}",
    "a width behind a name in %": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "a width behind an odd name in %": "{{ '%(a()b)1000000000d' % {'a()b': 1} }}",
    "a width in a method that is asked for by name": "{{ ('{:1000000000}' | attr('format'))(1) }}",
    "a width in a method that is looked up": "{{ '{:1000000000}'['format'](1) }}",
    "indent of other line ends": "{{ ('a\\r' * 100000) | indent(1000) }}",
    "a power of a long number": "{{ ('9' * 4000) | int ** 600 }}",
    "nesting": growing("(ns.x,)", "()", rounds=9999),
    "sum of attributes": "{{ ([{'a': [1] * 100}] * 999) | sum(attribute='a', start=[]) | length }}",
    "sum": "{{ ([[1] * 100] * 9000) | sum(start=[]) | length }}",
    "an indent of JSON": "{{ [1] | tojson(indent=10 ** 9) }}",
    "a separator of JSON": "{{ [1, 1] | tojson(separators=('a' * 9999, ':')) }}",
    "a search from the right": "{{ ('a' * 4000000).rfind('b' ~ 'a' * 2000000) }}",
    "strip": "{{ ('a' * 4000000).strip('b' * 4000000) }}",
    "trim": "{{ ('a' * 4000000) | trim('b' * 4000000) }}",
    "a number from hexadecimal": "{{ ('f' * 4000000) | int(0, 16) }}",
    "output": "{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "output in a block": "{% set x %}{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}"
    "{% endset %}",
    "output in a macro": "{% macro m() %}{% for a in range(99999) %}" + "x" * 1000 + "{% endfor %}"
    "{% endmacro %}{% set _ = m() %}",
    "output of expressions": "{% for a in range(99999) %}{{ messages }}{% endfor %}",
    "many long texts": "".join(f"{{% set x{i} = 'ab' * 4000000 %}}" for i in range(99)),
    "many slices": "{% set x = 'a' * 8000000 %}"
    + "".join(f"{{% set x{i} = x[1:] %}}" for i in range(99)),
}


@pytest.mark.parametrize("source", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_would_take_all_memory_is_refused(source: str) -> None:
    with pytest.raises(LimitError):
        rendered(source, messages="m" * 10_000)


def test_a_format_does_not_show_what_leads_out() -> None:
    assert rendered("{{ '{0.__class__}'.format(1) }}") == ""


def test_a_deep_value_is_not_indented_beyond_the_limit() -> None:
    nested = growing("[ns.x]", "['a'] * 9999", rounds=200).removesuffix("{{ ns.x }}")
    with pytest.raises(LimitError):
        rendered(nested + "{{ ns.x | tojson(indent=16) }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ {}.update(a=1) }}",
        "{{ 'a'.encode() }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ namespace(__init__=1) }}",
        "{{ (1).to_bytes(99) }}",
    ],
)
def test_what_leads_out_of_the_sandbox_is_refused(source: str) -> None:
    with pytest.raises((SecurityError, TemplateError)):
        rendered(source, messages=[1])


@pytest.mark.parametrize(
    "source",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% block b %}{{ self.b() }}{% endblock %}",
        "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{{ range(10 ** 9) }}",
        "{{ strftime_now('%Y' * 1000) }}",
        "{{ 1 / 0 }}",
        "{{ messages['x'].y.z }}",
    ],
)
def test_what_a_template_raises_is_the_requests_error(source: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])
    assert caught.value.param == "messages"


def test_a_template_without_end_is_a_clear_error() -> None:
    template = ChatTemplate("{% if messages[1] %}" + FOR_EVER["nested loops"] + "{% endif %}")
    hi = {"role": "user", "content": "hi"}
    with pytest.raises(InvalidRequestError, match=r"more than 0\.5 s of processor time"):
        template.render([hi, hi])


def test_a_caller_with_less_time_is_told_so() -> None:
    template = ChatTemplate("{% for i in range(999) %}{{ i % 10 }}{% endfor %}")
    with pytest.raises(RenderingTooLongError):
        template.render([], time_limit_s=0.0)
    assert len(template.render([])) == 999


def test_nothing_is_worked_out_while_a_template_is_compiled() -> None:
    ChatTemplate("{% if false %}{{ 'a' * 10 ** 12 }}{{ 'a' | center(10 ** 12) }}{% endif %}")


def test_a_rendering_ends_without_the_budget_of_the_one_before() -> None:
    template = ChatTemplate("{{ messages[0].content * messages[0].times }}")
    for times in (1, 10**12, 1):
        message = {"role": "user", "content": "a", "times": times}
        if times == 1:
            assert template.render([message]) == "a"
        else:
            with pytest.raises(InvalidRequestError, match="8,388,608 characters"):
                template.render([message])
