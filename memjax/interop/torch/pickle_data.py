"""A pickle read as plain data: nothing it names is imported, nothing it holds is called.

A pickle is a program for a small stack machine, and the usual machine runs whatever it is told to.
This one knows only the operations that weights files use. A name (``torch.FloatStorage``) stays a
name; building an object gives an :class:`Instance` that holds its state; a call is handed to one
function of ours, which decides by name and refuses what it does not know.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

MAX_OPERATIONS = 5_000_000


class Name(NamedTuple):
    """A class or function that a pickle mentions; only its name."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclasses.dataclass
class Instance:
    """What a pickle says about an object: the name of its class and its state."""

    kind: Name
    state: Any = None


class Rules(NamedTuple):
    """What the reader of one kind of file allows.

    Attributes:
        name: Called with every name mentioned; raises a RefusedError for one that is not allowed.
        call: ``(name, arguments) → value`` in place of a call.
        reference: What a persistent id stands for.
    """

    name: Callable[[Name], None]
    call: Callable[[Name, tuple], Any]
    reference: Callable[[Any], Any]


class RefusedError(ValueError):
    """Says why a file is not read; the reason continues the sentence "The file …"."""


class _Mark:
    """Where a tuple, list or dict under construction begins."""


_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}


def checked_pairs(pairs: Iterable[Any]) -> dict[Any, Any]:
    """Returns a dict of pairs whose keys are texts or whole numbers.

    .. note:: Anything else is refused: hashing a tuple of tuples that share their parts takes time
        without bound.
    """
    items = [(key, value) for key, value in pairs]
    if any(type(key) not in (str, int) for key, _ in items):
        raise TypeError("a key that is neither a text nor a whole number")
    return dict(items)


def brief(value: Any) -> str:
    """Returns a value for a message: small ones as they are, of others only the kind."""
    if type(value) in (tuple, list) and len(value) <= 16:
        return f"({', '.join(brief(v) if type(v) is int else type(v).__name__ for v in value)})"
    if type(value) is int and value.bit_length() < 128:
        return str(value)
    if type(value) in (str, Name) and len(str(value)) < 100:
        return repr(str(value)) if type(value) is str else str(value)
    return type(value).__name__


def read_pickle(stream: BinaryIO, rules: Rules) -> Any:
    """Reads one pickle, up to and including its end, and returns its value.

    Args:
        stream: Open at the start of a pickle; left right after it.
        rules: What may be named, called and referred to.

    Raises:
        RefusedError: The pickle is broken, or asks for something no weights file needs.
    """
    machine = _Machine(rules)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise RefusedError(f"has more than {MAX_OPERATIONS} operations")
            machine.run(opcode.name, argument)
        return machine.value()
    except RefusedError:
        raise
    except _BROKEN as error:
        raise RefusedError(f"holds a broken pickle ({error})") from error


_BROKEN = (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


class _Machine:
    def __init__(self, rules: Rules):
        self.rules = rules
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def value(self) -> Any:
        (value,) = self.stack
        return value

    def run(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            operation = getattr(self, f"_op_{name.lower()}", None)
            if operation is None:
                raise RefusedError(f"uses the pickle operation {name}, which no weights file needs")
            operation(argument)

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while not isinstance(self.stack[start], _Mark):
            start -= 1
            if start < 0:
                raise IndexError("no mark on the stack")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _named(self, name: Name) -> None:
        self.rules.name(name)
        self.stack.append(name)

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self._take_tuple(1)

    def _op_tuple2(self, _: Any) -> None:
        self._take_tuple(2)

    def _op_tuple3(self, _: Any) -> None:
        self._take_tuple(3)

    def _take_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError("too few values on the stack")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _op_dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._fill(items)

    def _op_append(self, _: Any) -> None:
        item = self.stack.pop()
        self._target(list).append(item)

    def _op_appends(self, _: Any) -> None:
        items = self._since_mark()
        self._target(list).extend(items)

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._fill(self._since_mark())

    def _fill(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError("a key without a value")
        self._target(dict).update(checked_pairs(zip(items[::2], items[1::2], strict=True)))

    def _target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"a {type(self.stack[-1]).__name__} where a {kind.__name__} belongs")
        return self.stack[-1]

    def _op_global(self, argument: str) -> None:
        self._named(Name(*argument.split(" ", 1)))

    def _op_stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(attribute) is not str:
            raise TypeError("a name that is not text")
        self._named(Name(module, attribute))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise TypeError("a call of something that is not a name")
        self.stack.append(self.rules.call(function, arguments))

    def _op_newobj(self, _: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if type(kind) is not Name or type(arguments) is not tuple:
            raise TypeError("an object of something that is not a class")
        self.stack.append(Instance(kind))

    def _op_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Instance:
            target.state = state
        elif type(target) is not dict:  # the attributes of an ordered dict are only metadata
            raise TypeError(f"a state for a {type(target).__name__}")

    def _op_binpersid(self, _: Any) -> None:
        self.stack.append(self.rules.reference(self.stack.pop()))
