"""Jinja's immutable sandbox, with every step of a template counted.

A template is compiled as ever, except that its code also calls the environment where it loops,
writes, compares, joins or builds something, and nothing is worked out while it is compiled.

Source:
    The filters, globals and tags of `transformers.utils.chat_template_utils`, for which chat
    templates are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import TemplateError, nodes, pass_environment
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from common.jinja_sandbox import builtins
from common.jinja_sandbox.budget import Budget, Current

MAX_DATE_FORMAT_CHARS = 256
_TICKING = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
_VARIABLES = frozenset(("_loop_vars", "_block_vars"))
"""Arguments that a template's code adds to its calls."""
_EQUALITY = frozenset(("eq", "ne"))


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates that can be rendered within a budget; thread-safe.

    Attributes:
        now: Has the budget of the rendering that a thread is in.
    """

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants are worked out within the budget, too
            finalize=_finalize,
            extensions=[loopcontrols, _GenerationTag],
        )
        self.code_generator_class = _CodeGenerator
        self.now = Current()
        self.filters.clear()
        self.filters.update(builtins.filters(self.now))
        self.tests.update(builtins.tests(self.now))
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _Dict(self)
        self.globals["namespace"] = _Namespace

    @contextmanager
    def spending(self, budget: Budget) -> Iterator[None]:
        """Let this thread render by a budget."""
        self.now.budget = budget
        try:
            yield
        finally:
            del self.now.budget

    # Called by the code of templates.

    def tick(self) -> bool:
        """Count one round of a loop, or one call."""
        return self.now.budget.spend()

    def write(self, num_chars: int) -> None:
        """Count a template's own text."""
        self.now.budget.write(num_chars)

    def admit(self, value: Any) -> Any:
        """Count a value that is compared, or has been built."""
        return self.now.budget.admit(value)

    def glanced(self, value: Any) -> Any:
        """Count a value whose items are gone over."""
        return self.now.budget.glanced(value)

    def copied(self, value: Any) -> Any:
        """Count a slice."""
        return self.now.budget.copied(value)

    def join_texts(self, is_markup: bool, items: tuple[Any, ...]) -> str:
        """What `~` does."""
        for item in items:
            self.now.budget.admit(item)
        return self.now.budget.made(markup_join(items) if is_markup else str_join(items))

    # Called by Jinja.

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for node in list(template.find_all(_TICKING)):
            _add_tick(node)
        return template

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """See Jinja; methods of Python's own types have to be known as well."""
        return super().is_safe_attribute(obj, attr, value) and builtins.is_method(obj, attr)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See Jinja."""
        builtins.check_operator(self.now.budget, operator, left, right)
        return self.now.budget.made(super().call_binop(context, operator, left, right))

    def call(  # noqa: D102 - Jinja's; the names are such that no keyword argument meets them
        __self, __context: Context, __obj: Any, *args: Any, **kwargs: Any
    ) -> Any:
        budget = __self.now.budget
        budget.spend()
        owner = None
        if isinstance(__obj, BuiltinMethodType | MethodType):
            owner = __obj.__self__
        if isinstance(owner, dict):
            return super().call(__context, __obj, *args, **kwargs)
        named = [value for name, value in kwargs.items() if name not in _VARIABLES]
        for arg in args:
            budget.admit(arg)
        for arg in named:
            budget.admit(arg)
        if isinstance(owner, str):
            args = builtins.check_method(budget, owner, __obj.__name__, args, named)
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See Jinja; what is returned looks at widths before it formats."""
        format_text = super().wrap_str_format(value)
        if format_text is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            builtins.check_braces(self.now.budget, value.__self__, (*args, *kwargs.values()))
            return format_text(*args, **kwargs)

        return bounded


class _CodeGenerator(CodeGenerator):
    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        own = sum(len(n.data) for n in node.nodes if isinstance(n, nodes.TemplateData))
        if own:
            self.writeline(f"environment.write({own})", node)
        super().visit_Output(node, frame)

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if isinstance(node.node, nodes.EnvironmentAttribute):
            self.write(f"environment.{node.node.name}()")
        else:
            super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        # Beside a constant, a list is not looked into, and a text as far as the constant goes.
        has_constant = any(isinstance(each, nodes.Const) for each in operands)
        is_cheap = has_constant and all(operand.op in _EQUALITY for operand in node.ops)
        name = "" if is_cheap else "environment.glanced" if has_constant else "environment.admit"
        self.write("(")
        self._visit_in(name, node.expr, frame)
        for operand in node.ops:
            self.write(f" {_OPERATORS[operand.op]} ")
            self._visit_in(name, operand.expr, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        volatile = frame.eval_ctx.volatile
        is_markup = "context.eval_ctx.autoescape" if volatile else bool(frame.eval_ctx.autoescape)
        self.write(f"environment.join_texts({is_markup}, (")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._write_in("environment.admit", super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._write_in("environment.admit", super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._write_in("environment.admit", super().visit_Dict, node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._write_in("environment.copied", super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _visit_in(self, name: str, node: nodes.Expr, frame: Frame) -> None:
        self._write_in(name, self.visit, node, frame)

    def _write_in(
        self, name: str, visit: Callable[..., Any], node: nodes.Expr, frame: Frame
    ) -> None:
        self.write("(" if isinstance(node, nodes.Const) else f"{name}(")
        visit(node, frame)
        self.write(")")


_OPERATORS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gteq": ">=",
    "lt": "<",
    "lteq": "<=",
    "in": "in",
    "notin": "not in",
}


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's text in training; here it only scopes names."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text_of"), [], [], body, lineno=line)

    def _text_of(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Dict:
    """`dict`, without what the class itself could be asked for."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self._environment = environment

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace`, whose text is not that of all it holds, which may be itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self = args[0]
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)
        assert isinstance(self, _Namespace)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}, for it begins with '_'")


def _add_tick(node: nodes.Node) -> None:
    def tick() -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)

    assert isinstance(node, _TICKING)
    node.body.insert(0, nodes.ExprStmt(tick(), lineno=node.lineno))
    if isinstance(node, nodes.For) and node.test is not None:
        node.test = nodes.And(tick(), node.test, lineno=node.lineno)


@pass_environment
def _finalize(environment: BoundedEnvironment, value: Any) -> Any:
    budget = environment.now.budget
    text = value if isinstance(value, str) else str(budget.admit(value))
    budget.write(len(text))
    return text


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > MAX_DATE_FORMAT_CHARS:
        raise TemplateError(f"strftime_now takes at most {MAX_DATE_FORMAT_CHARS} characters")
    return datetime.now().strftime(form)
