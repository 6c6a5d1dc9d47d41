"""A compiled program's text as instructions, each with how often it is run.

The text is the compiler's final HLO: computations of instructions, one of them the entry.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_END = re.compile(r"^\}(, execution_thread=.*)?\s*$")
# What runs another computation; of an asynchronous call its start alone.
_CALLERS = ("fusion", "call", "while", "conditional", "async-start")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OPERATION = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """One line: what it is called, its type, what it does, and the rest after the bracket."""

    name: str
    type: str
    opcode: str
    rest: str


class Visit(NamedTuple):
    """An instruction where it is run.

    Attributes:
        computation: The computation it stands in.
        instruction: The line.
        times: How often a run of the program runs it: the product of the trips around it.
        sure: Whether all those trips are known; an unknown one counts once.
        origin: The JAX operation it comes from, or that of what calls it.
    """

    computation: str
    instruction: Instruction
    times: int
    sure: bool
    origin: str


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns every computation's instructions by its name, and the name of the entry.

    What a kernel is told stands on lines of its own within its instruction.
    """
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif _END.match(line):
            current = None
        elif current is not None and (match := _LINE.match(line)):
            current.append(Instruction(*match.groups()))
        elif current:
            current[-1] = current[-1]._replace(rest=f"{current[-1].rest} {line}")
    if not entry:
        raise ValueError("the compiled program's text has no entry: it cannot be read.")
    return found, entry


def _constant(lines: Sequence[Instruction], name: str) -> int | None:
    """Returns the number an instruction is, copies followed back; None where it is none."""
    by_name = {line.name: line for line in lines}
    while (line := by_name.get(name)) and line.opcode in ("copy", "bitcast"):
        name = line.rest.partition(")")[0].strip().lstrip("%")
    if line is None or line.opcode != "constant" or not (match := re.match(r"-?\d+", line.rest)):
        return None
    return int(match[0])


def operands(instruction: Instruction | None) -> list[str]:
    """Returns the names between an instruction's brackets."""
    if instruction is None:
        return []
    return re.findall(r"%([\w.\-]+)", instruction.rest.partition(")")[0])


def _named(lines: Sequence[Instruction], name: str) -> Instruction | None:
    return next((line for line in lines if line.name == name), None)


def _stride(body: Sequence[Instruction], place: int) -> int:
    """Returns what a loop's body adds to an entry of its state; 1 where that is not plain."""
    entries = operands(body[-1]) if body and body[-1].opcode == "tuple" else []
    step = _named(body, entries[place]) if place < len(entries) else None
    if step is None or step.opcode != "add":
        return 1
    added = [_constant(body, name) for name in operands(step)]
    return next((number for number in added if number), 1)


def _trips(
    loop: Instruction, around: Sequence[Instruction], found: Mapping[str, list[Instruction]]
) -> int | None:
    """Returns how often a loop runs: what the compiler noted, or from where to where it counts.

    Read so are loops whose condition compares one entry of the state, set to a number before the
    loop (else taken to be 0), with one constant. The compiler unrolls some: their body adds 2.
    """
    noted = _TRIPS.search(loop.rest)
    if noted:
        return int(noted[1])
    inside = {
        part: found.get(match[1], [])
        for part in ("condition", "body")
        if (match := re.search(rf"{part}=%?([\w.\-]+)", loop.rest))
    }
    lines = inside.get("condition", [])
    bounds = [_constant(lines, line.name) for line in lines if line.opcode == "constant"]
    if len(bounds) != 1 or bounds[0] is None or not any("direction=LT" in ln.rest for ln in lines):
        return None
    read = [re.search(r"index=(\d+)", ln.rest) for ln in lines if ln.opcode == "get-tuple-element"]
    places = [int(match[1]) for match in read if match]
    if len(places) != 1:
        return None
    entries = operands(_named(around, operands(loop)[0]))
    start = _constant(around, entries[places[0]]) if places[0] < len(entries) else 0
    return max(-(-(bounds[0] - (start or 0)) // _stride(inside.get("body", []), places[0])), 0)


def _called(instruction: Instruction) -> list[str]:
    if instruction.opcode not in _CALLERS:
        return []
    names = _CALLED.findall(instruction.rest)
    for branches in _BRANCHES.findall(instruction.rest):
        names += [name.strip().lstrip("%") for name in branches.split(",")]
    return names


def walk(
    found: Mapping[str, list[Instruction]], name: str, times: int, sure: bool, origin: str = ""
) -> Iterator[Visit]:
    """Goes through all that a computation runs, in order, and through what it calls."""
    lines = found.get(name, [])
    for instruction in lines:
        named = _OPERATION.search(instruction.rest)
        known_as = named[1] if named else origin
        yield Visit(name, instruction, times, sure, known_as)
        inner, known = times, sure
        if instruction.opcode == "while":
            trips = _trips(instruction, lines, found)
            inner, known = times * (1 if trips is None else trips), sure and trips is not None
        for called in _called(instruction):
            yield from walk(found, called, inner, known, known_as)


def loops(text: str) -> list[int | None]:
    """Returns the trips of every loop of a program's text, None where they are not known."""
    found, entry = computations(text)
    return [
        _trips(visit.instruction, found[visit.computation], found)
        for visit in walk(found, entry, 1, True)
        if visit.instruction.opcode == "while"
    ]
