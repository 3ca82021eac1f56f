r"""A formula folded: rational parts computed exactly, like terms and factors gathered, in one order.

What comes out is equal to what went in; two formulas that fold to the same tree are equal. Numbers that would have more than
`MAX_BITS` bits stay powers of primes, so that `2^{10^{10}}` still equals `4^{5 \cdot 10^9}` and costs nothing. Radicals become
powers of primes (`\sqrt{8}` is 2·2^(1/2)), logarithms of rationals sums over primes, sine and cosine exact at multiples of 15°
where that is a single radical. A real number below 0 has a real root of odd order. `Budget` bounds the work, not a clock, so a
verdict is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import gcd

from flint import fmpq, fmpz

from grail_envs.sandbox.formula_tree import (
    HALF,
    MINUS_ONE,
    ONE,
    ZERO,
    Call,
    Constant,
    Matrix,
    Name,
    Node,
    Number,
    Power,
    Product,
    Sum,
    quotient,
    rebuilt,
)

MAX_BITS = 2**18
"""Bits of a numerator or denominator that is written out: 20,000 factorial, or 10 to the 78,000th."""

_MAX_FACTORIAL = 20_000
_FACTORED_BITS = 64
_PI, _E, _I = Constant("pi"), Constant("e"), Constant("i")
_SINES: dict[int, Node] = {  # sine of multiples of π/12 up to π/2, where it is a number or one radical
    0: ZERO,
    2: HALF,
    3: Product((HALF, Power(Number(fmpq(2)), HALF))),
    4: Product((HALF, Power(Number(fmpq(3)), HALF))),
    6: ONE,
}


class UndefinedError(ArithmeticError):
    """The formula has no value, as 1/0 has none."""


class UndecidedError(ArithmeticError):
    """The work that is allowed is used up."""


class Budget:
    """Work that is left, in units of about a microsecond."""

    def __init__(self, units: float) -> None:
        self.left = units

    def spend(self, units: float) -> None:
        """Take units off.

        Raises:
            UndecidedError: none are left.
        """
        self.left -= units
        if self.left < 0:
            raise UndecidedError("more work than a comparison may take")


class Folding:
    """Folds formulas; one a comparison."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._known: dict[Node, Node] = {}

    def fold(self, node: Node) -> Node:
        """The folded formula.

        Raises:
            UndefinedError: a part has no value.
            UndecidedError: the budget is used up.
        """
        if isinstance(node, Number | Name | Constant):
            return node
        found = self._known.get(node)
        if found is None:
            self._budget.spend(5)
            parts = rebuilt(node, self.fold)
            found = self._known[node] = self._combined(parts)
        return found

    def _combined(self, node: Node) -> Node:
        if isinstance(node, Sum):
            return self._sum(node.terms)
        if isinstance(node, Product):
            return self._product((factor, ONE) for factor in node.factors)
        if isinstance(node, Power):
            return self._power(node.base, node.exponent)
        if isinstance(node, Call):
            return self._call(node.function, node.arguments)
        return node

    def _sum(self, terms: Iterable[Node]) -> Node:
        total = fmpq(0)
        counts: dict[Node, fmpq] = {}
        for term in terms:
            for part in term.terms if isinstance(term, Sum) else (term,):
                factor, core = _split(part)
                if core is None:
                    total = self._charged(total + factor)
                else:
                    counts[core] = counts.get(core, fmpq(0)) + factor
        parts: list[Node] = [_scaled(factor, core) for core, factor in counts.items() if factor]
        parts.sort(key=repr)
        if total or not parts:
            parts.insert(0, Number(total))
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))

    def _charged(self, value: fmpq) -> fmpq:
        bits = max(value.p.bit_length(), value.q.bit_length())
        self._budget.spend(bits / 50)
        if bits > 4 * MAX_BITS:
            raise UndecidedError("a number of more digits than are written out")
        return value

    def _power(self, base: Node, exponent: Node) -> Node:
        if base == ZERO:
            if isinstance(exponent, Number) and exponent.value > 0:
                return ZERO
            raise UndefinedError("a power of 0 that has no value")
        angle = _times_i_pi(exponent) if base == _E else None
        if angle is not None:
            cosine, sine = (self._turned(name, angle) for name in ("cos", "sin"))
            return self._sum((cosine, self._product(((_I, ONE), (sine, ONE)))))
        return self._product(((base, exponent),))

    def _product(self, factors: Iterable[tuple[Node, Node]]) -> Node:
        """The product of powers (base, exponent), all folded."""
        gathered = _Gathered(self._budget)
        for base, exponent in factors:
            gathered.take(base, exponent)
        if gathered.zero:
            return ZERO
        parts: list[Node] = []
        for base, exponents in gathered.powers.items():
            exponent = exponents[0] if len(exponents) == 1 else self._sum(exponents)
            if exponent == ZERO:
                continue
            if base == _I and isinstance(exponent, Number) and exponent.value.q == 1:
                turns = int(exponent.value.p) % 4
                gathered.factor *= -1 if turns > 1 else 1
                if turns % 2:
                    parts.append(_I)
                continue
            parts.append(base if exponent == ONE else Power(base, exponent))
        parts += gathered.prime_powers()
        parts.sort(key=repr)
        factor = self._charged(gathered.factor)
        if len(parts) == 1 and isinstance(parts[0], Sum) and factor != 1:  # one number times a sum is a sum of numbers
            return self._sum(_scaled(factor * own, core) for own, core in map(_split, parts[0].terms))
        if factor != 1 or not parts:
            parts.insert(0, Number(factor))
        return parts[0] if len(parts) == 1 else Product(tuple(parts))

    def _call(self, function: str, arguments: tuple[Node, ...]) -> Node:
        first = arguments[0]
        if function == "root":
            index = arguments[1]
            if not isinstance(index, Number) or index.value == 0:
                raise UndefinedError("a root without an order")
            return self._power(first, Number(1 / index.value))
        if function == "log":
            return self._logarithm(*arguments)
        if function in ("sin", "cos"):
            angle = _times_pi(first)
            return Call(function, arguments) if angle is None else self._turned(function, angle)
        if function in ("tan", "cot", "sec", "csc"):
            return self._quotient_of_turns(function, first)
        if all(isinstance(argument, Number) for argument in arguments):
            value = self._exact(function, [argument.value for argument in arguments if isinstance(argument, Number)])
            return Call(function, arguments) if value is None else Number(self._charged(value))
        return Call(function, arguments)

    def _quotient_of_turns(self, function: str, angle: Node) -> Node:
        sine, cosine = self._call("sin", (angle,)), self._call("cos", (angle,))
        top, bottom = {"tan": (sine, cosine), "cot": (cosine, sine), "sec": (ONE, cosine), "csc": (ONE, sine)}[function]
        if bottom == ZERO:
            raise UndefinedError(f"{function} where it has no value")
        return self._product(((top, ONE), (bottom, MINUS_ONE)))

    def _turned(self, function: str, angle: fmpq) -> Node:
        """Sine or cosine of `angle`·π."""
        turn = (angle + (fmpq(1, 2) if function == "cos" else 0)) * 12
        if turn.q == 1:
            twelfths = int(turn.p) % 24
            negative = twelfths > 12
            twelfths = min(twelfths % 12, 12 - twelfths % 12) if twelfths % 12 else 0
            if twelfths in _SINES:
                value = self.fold(_SINES[twelfths])
                return self._product(((MINUS_ONE, ONE), (value, ONE))) if negative else value
        reduced = angle - 2 * fmpq((angle / 2).floor())
        return Call(function, (_scaled(reduced, _PI),))

    def _logarithm(self, value: Node, base: Node | None = None) -> Node:
        if base is not None:
            above, below = self._logarithm(value), self._logarithm(base)
            if below == ZERO:
                raise UndefinedError("a logarithm to the base 1")
            ratio = _ratio(above, below)
            return Number(ratio) if ratio is not None else self.fold(quotient(above, below))
        if value == ZERO:
            raise UndefinedError("the logarithm of 0")
        if value == _E:
            return ONE
        if isinstance(value, Number) and value.value < 0:
            return self._sum((self._logarithm(Number(-value.value)), Product((_I, _PI))))
        primes = _primes(value.value) if isinstance(value, Number) else None
        if primes is None:
            return Call("log", (value,))
        return self._sum(_scaled(fmpq(count), Call("log", (Number(fmpq(prime)),))) for prime, count in primes.items())

    def _exact(self, function: str, values: list[fmpq]) -> fmpq | None:
        first = values[0]
        if function == "abs":
            return abs(first)
        if function in ("floor", "ceil"):
            return fmpq(first.floor() if function == "floor" else first.ceil())
        if function == "sgn":
            return fmpq((first > 0) - (first < 0))
        if function in ("max", "min"):
            return max(values) if function == "max" else min(values)
        if function == "mod" and values[1] != 0:
            return first - values[1] * fmpq((first / values[1]).floor())
        if any(value.q != 1 for value in values):
            return None
        if function in ("gcd", "lcm"):
            whole = [abs(int(value.p)) for value in values]
            return fmpq(reduce(gcd if function == "gcd" else _lcm, whole))
        if function == "factorial":
            if first < 0:
                raise UndefinedError("the factorial of a negative number")
            return fmpq(fmpz.fac_ui(first.p)) if first <= _MAX_FACTORIAL else None
        if function == "binomial" and 0 <= first <= _MAX_FACTORIAL:
            return fmpq(fmpz.bin_uiui(int(first.p), int(values[1].p))) if 0 <= values[1] <= first else fmpq(0)
        return None


class _Gathered:
    """Powers that are multiplied: a rational factor, exponents of primes, and exponents of everything else."""

    def __init__(self, budget: Budget) -> None:
        self.factor = fmpq(1)
        self.zero = False
        self.powers: dict[Node, list[Node]] = {}
        self._primes: dict[int, fmpq] = {}
        self._budget = budget

    def take(self, base: Node, exponent: Node) -> None:
        whole = isinstance(exponent, Number) and exponent.value.q == 1
        if isinstance(base, Number) and isinstance(exponent, Number):
            self._number(base.value, exponent.value)
        elif isinstance(base, Product) and whole:
            for factor in base.factors:
                self.take(factor, exponent)
        elif isinstance(base, Product) and isinstance(base.factors[0], Number) and base.factors[0].value > 0:
            self.take(base.factors[0], exponent)
            rest = base.factors[1:]
            self._other(rest[0] if len(rest) == 1 else Product(rest), exponent)
        elif isinstance(base, Power) and isinstance(exponent, Number) and (whole or _positive(base)):
            if isinstance(base.exponent, Number):
                self.take(base.base, Number(base.exponent.value * exponent.value))
            else:
                self._other(base.base, _scaled_all(exponent.value, base.exponent))
        elif isinstance(base, Power) and exponent == ONE:
            self._other(base.base, base.exponent)
        else:
            self._other(base, exponent)

    def _other(self, base: Node, exponent: Node) -> None:
        if base != ONE:
            self.powers.setdefault(base, []).append(exponent)

    def _number(self, value: fmpq, exponent: fmpq) -> None:
        if value == 0:
            if exponent <= 0:
                raise UndefinedError("division by 0")
            self.zero = True
            return
        if value < 0 and exponent.q % 2 == 0:
            self._other(_I if exponent.q == 2 else MINUS_ONE, Number(fmpq(exponent.p) if exponent.q == 2 else exponent))
            value = -value
        elif value < 0:
            self.factor *= -1 if exponent.p % 2 else 1
            value = -value
        if exponent.q == 1:
            bits = max(value.p.bit_length(), value.q.bit_length()) * abs(int(exponent.p))
            if value == 1 or bits <= MAX_BITS:
                self._budget.spend(bits / 50)
                self.factor *= value ** int(exponent.p) if value != 1 else 1
                return
        primes = _primes(value)
        if primes is None:
            self._other(Number(value), Number(exponent))
            return
        for prime, count in primes.items():
            self._primes[prime] = self._primes.get(prime, fmpq(0)) + count * exponent

    def prime_powers(self) -> list[Node]:
        """The powers of primes that are no rational number, or too large; the rest of them goes into the factor."""
        large = {prime for prime, count in self._primes.items() if abs(int(count.floor())) * prime.bit_length() > MAX_BITS}
        own = _primes(abs(self.factor)) if large else None
        if own is not None:
            for prime in large & own.keys():
                self._primes[prime] += own[prime]
                self.factor /= fmpq(prime) ** own[prime]
        found: list[Node] = []
        for prime, count in self._primes.items():
            whole = 0 if prime in large else int(count.floor())
            self._budget.spend(abs(whole) * prime.bit_length() / 50)
            self.factor *= fmpq(prime) ** whole
            if count != whole:
                found.append(Power(Number(fmpq(prime)), Number(count - whole)))
        return found


def _split(term: Node) -> tuple[fmpq, Node | None]:
    """The rational factor of a term and the rest (None: there is none)."""
    if isinstance(term, Number):
        return term.value, None
    if isinstance(term, Product) and isinstance(term.factors[0], Number):
        rest = term.factors[1:]
        return term.factors[0].value, rest[0] if len(rest) == 1 else Product(rest)
    return fmpq(1), term


def _scaled(factor: fmpq, core: Node | None) -> Node:
    if core is None or factor == 0:
        return Number(factor)
    if factor == 1:
        return core
    return Product((Number(factor), *(core.factors if isinstance(core, Product) else (core,))))


def _scaled_all(factor: fmpq, node: Node) -> Node:
    terms = node.terms if isinstance(node, Sum) else (node,)
    scaled = tuple(_scaled(factor * own, core) for own, core in map(_split, terms))
    return scaled[0] if len(scaled) == 1 else Sum(scaled)


def _positive(power: Power) -> bool:
    """Whether a power is surely above 0: of a positive number or e, to a rational exponent."""
    base = power.base
    return isinstance(power.exponent, Number) and ((isinstance(base, Number) and base.value > 0) or base in (_E, _PI))


def _times_pi(node: Node) -> fmpq | None:
    factor, core = _split(node)
    return fmpq(0) if core is None and factor == 0 else factor if core == _PI else None


def _times_i_pi(node: Node) -> fmpq | None:
    factor, core = _split(node)
    return factor if isinstance(core, Product) and set(core.factors) == {_I, _PI} else None


def _ratio(above: Node, below: Node) -> fmpq | None:
    """The rational number that one sum is of another, term by term."""
    if above == ZERO:
        return fmpq(0)
    first, second = ({core: factor for factor, core in map(_split, _terms(node))} for node in (above, below))
    if first.keys() != second.keys():
        return None
    ratios = {str(first[core] / second[core]): first[core] / second[core] for core in first}
    return next(iter(ratios.values())) if len(ratios) == 1 else None


def _terms(node: Node) -> tuple[Node, ...]:
    return node.terms if isinstance(node, Sum) else (node,)


def _primes(value: fmpq) -> dict[int, int] | None:
    """The exponents of the primes of a positive rational; None above 64 bits."""
    if max(value.p.bit_length(), value.q.bit_length()) > _FACTORED_BITS:
        return None
    found = {int(prime): int(count) for prime, count in value.p.factor()}
    found.update({int(prime): -int(count) for prime, count in value.q.factor()})
    return found


def _lcm(left: int, right: int) -> int:
    return left * right // gcd(left, right) if left and right else 0


__all__ = ["MAX_BITS", "Budget", "Folding", "Matrix", "UndecidedError", "UndefinedError"]
