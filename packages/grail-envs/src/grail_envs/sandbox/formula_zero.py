r"""Whether a number is zero: exactly, or by balls that hold it at rising precision and a bound below which only zero lies.

A folded number that is rational is compared as a rational. Any other is enclosed in a ball (Arb, by python-flint) at 64
bits, then at four times as many again and again. A ball without zero proves that the number is not zero. It is
taken for zero when the ball lies below a bound that no other number of its form reaches:

* for numbers made of rationals, roots, i and sines and cosines of rational multiples of π, the separation bound of Burnikel,
  Funke, Mehlhorn, Schirra and Schmitt ("A separation bound for real algebraic expressions", 2001), which is proven;
* for numbers with π, e, logarithms and other values, twice the bits that the same count gives, plus 256, where each such value
  counts as a root: Richardson's uniformity conjecture with room to spare. Digits and exponents count in full, so a difference
  of 10 to the -3,000th is seen. No proof is known here for any method.

A bound beyond `MAX_ALGEBRAIC_BITS` or `MAX_BITS` bits, or a budget that is used up, decides nothing: the answer is not taken.
"""

from __future__ import annotations

import math

from flint import acb, arb, ctx, fmpq, fmpz

from grail_envs.sandbox.formula_folding import Budget, Folding, UndecidedError, UndefinedError
from grail_envs.sandbox.formula_tree import Call, Constant, Node, Number, Power, Product, Sum, difference, has

MAX_ALGEBRAIC_BITS = 2**20
MAX_BITS = 2**18
_FIRST_BITS = 64
_PI, _E, _I = Constant("pi"), Constant("e"), Constant("i")


class Comparison:
    """Compares numbers within one budget."""

    def __init__(self, units: float) -> None:
        self._budget = Budget(units)
        self._folding = Folding(self._budget)

    def fold(self, node: Node) -> Node:
        """See `Folding.fold`."""
        return self._folding.fold(node)

    def equal(self, left: Node, right: Node) -> bool:
        """Whether two numbers are the same.

        Raises:
            UndefinedError: one has no value.
            UndecidedError: the bound is out of reach.
        """
        return self.zero(self.fold(difference(left, right)))

    def zero(self, folded: Node) -> bool:
        """Whether a folded number is zero. Raises as `equal` does."""
        if isinstance(folded, Number):
            return bool(folded.value == 0)
        reach = _Reach(self._budget)
        needed = reach.bits(folded)
        most = MAX_BITS if reach.transcendental else MAX_ALGEBRAIC_BITS
        bits = _FIRST_BITS
        finite = False
        while True:
            ball = self.ball(folded, bits)
            if ball is not None:
                finite = True
                if not ball.contains(0):
                    return False
                if ball.is_exact() or _below(ball, needed):
                    return True
            if bits >= most:
                break
            bits = int(min(most, 4 * bits, max(needed + 64, 2 * bits)))
        if not finite:
            raise UndefinedError("a formula without a value")
        raise UndecidedError("the bound below which only zero lies is out of reach")

    def ball(self, folded: Node, bits: int) -> acb | None:
        """A ball of the number at this precision; None where none is finite."""
        before = ctx.prec
        try:
            ctx.prec = bits
            found = _Balls(self._budget, bits).of(folded)
        finally:
            ctx.prec = before
        return found if found.is_finite() else None

    def surely_not_real(self, node: Node) -> bool:
        """Whether the number has an imaginary part, seen at 256 bits."""
        ball = self.ball(self.fold(node), 256)
        return ball is not None and not ball.imag.contains(0)

    def sign(self, node: Node) -> int:
        """-1 or 1 of a real number that is not zero; 0 where that is not seen at 256 bits."""
        ball = self.ball(self.fold(node), 256)
        if ball is None or not ball.imag.contains(0):
            return 0
        return 1 if ball.real > 0 else -1 if ball.real < 0 else 0


def _below(ball: acb, bits: float) -> bool:
    return bool(bits < 2**40 and ball.abs_upper() < arb(fmpz(2)) ** arb(-int(bits) - 1))


class _Balls:
    def __init__(self, budget: Budget, bits: int) -> None:
        self._budget = budget
        self._plain = 0.5 + bits / 300
        self._costly = 5 + bits / 2.5
        self._known: dict[int, acb] = {}

    def of(self, node: Node) -> acb:
        found = self._known.get(id(node))
        if found is None:
            found = self._known[id(node)] = self._value(node)
        return found

    def _value(self, node: Node) -> acb:
        if isinstance(node, Number):
            return acb(arb(node.value))
        if isinstance(node, Constant):
            self._budget.spend(self._costly / 4)
            if node.text == "infinity":
                raise UndefinedError("infinity in a computation")
            return acb(0, 1) if node == _I else acb(arb.pi()) if node == _PI else acb(arb.const_e())
        if isinstance(node, Sum):
            self._budget.spend(self._plain * len(node.terms))
            return sum(map(self.of, node.terms), acb(0))
        if isinstance(node, Product):
            self._budget.spend(self._plain * len(node.factors))
            found = acb(1)
            for factor in node.factors:
                found *= self.of(factor)
            return found
        if isinstance(node, Power):
            return self._power(node)
        if isinstance(node, Call):
            return self._call(node.function, node.arguments)
        raise UndefinedError("a variable without a value")

    def _power(self, node: Power) -> acb:
        if node.base == _E:
            self._budget.spend(self._costly)
            return self.of(node.exponent).exp()
        base = self.of(node.base)
        if isinstance(node.exponent, Number):
            top, order = int(node.exponent.value.p), int(node.exponent.value.q)
            if order == 1:
                self._budget.spend(self._plain * max(1, abs(top).bit_length()))
                return base ** acb(top) if abs(top) > 2**60 else base**top
            if order < 2**20:
                self._budget.spend(2 * self._plain * (order.bit_length() + abs(top).bit_length()))
                negative = order % 2 == 1 and base.imag.is_zero() and base.real < 0
                root = -((-base).root(order)) if negative else base.sqrt() if order == 2 else base.root(order)
                return root**top
        self._budget.spend(2 * self._costly)
        return (base.log() * self.of(node.exponent)).exp()

    def _call(self, function: str, arguments: tuple[Node, ...]) -> acb:
        values = [self.of(argument) for argument in arguments]
        self._budget.spend(self._costly)
        first = values[0]
        if function in _METHODS:
            return acb(getattr(first, _METHODS[function])())
        if function in ("sin", "cos") and isinstance(arguments[0], Product) and len(arguments[0].factors) == 2:
            turn = arguments[0].factors[0]
            if isinstance(turn, Number) and arguments[0].factors[1] == _PI:
                exact = arb.sin_pi_fmpq(turn.value) if function == "sin" else arb.cos_pi_fmpq(turn.value)
                return acb(exact)
        if function in ("sin", "cos", "log"):
            return acb(getattr(first, function)())
        if function in ("asec", "acsc", "acot"):
            return acb(getattr(1 / first, {"asec": "acos", "acsc": "asin", "acot": "atan"}[function])())
        if function == "abs":
            return acb(abs(first))
        if function == "factorial":
            self._budget.spend(self._costly * 3)
            return (first + 1).gamma()
        if function == "binomial":
            self._budget.spend(self._costly * 9)
            return (first + 1).gamma() * (values[1] + 1).rgamma() * (first - values[1] + 1).rgamma()
        if function in ("floor", "ceil"):
            return _rounded(first, function)
        if function in ("max", "min"):
            found = values[0].real
            for value in values[1:]:
                found = found.max(value.real) if function == "max" else found.min(value.real)
            return acb(found)
        if function == "mod":
            return first - values[1] * _rounded(first / values[1], "floor")
        raise UndefinedError(f"{function} has no value that is known")


_METHODS = {
    **{name: name for name in ("asin", "acos", "atan", "sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh")},
}


def _rounded(value: acb, function: str) -> acb:
    found = (value.real.floor() if function == "floor" else value.real.ceil()).unique_fmpz()
    return acb("nan") if found is None else acb(found)


class _Reach:
    """Bits below which only zero lies; see the module."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._degrees: dict[object, float] = {}
        self.transcendental = False

    def bits(self, node: Node) -> float:
        above, below = self._parts(node)
        degree = math.prod(self._degrees.values())
        if self.transcendental:
            return 256 + 2 * degree * (above + below)
        return (degree - 1) * above + below + 2

    def _parts(self, node: Node) -> tuple[float, float]:
        """Binary logarithms of the bounds u and l of the paper."""
        self._budget.spend(1)
        if isinstance(node, Number):
            return float(node.value.p.bit_length()), float(node.value.q.bit_length() - (node.value.q == 1))
        if isinstance(node, Constant):
            if node == _I:
                self._degrees[_I] = 2.0
                return 0.0, 0.0
            return self._other(node, 2.0)
        if isinstance(node, Sum):
            above, below = self._parts(node.terms[0])
            for term in node.terms[1:]:
                own_above, own_below = self._parts(term)
                above = max(above + own_below, own_above + below) + 1
                below += own_below
            return above, below
        if isinstance(node, Product):
            parts = [self._parts(factor) for factor in node.factors]
            return sum(part[0] for part in parts), sum(part[1] for part in parts)
        if isinstance(node, Power):
            return self._power(node)
        if isinstance(node, Call):
            if node.function in ("sin", "cos") and self._turn(node):
                return 1.0, 1.0
            if node.function == "abs":
                self._degrees[node] = 2.0
                return self._parts(node.arguments[0])
            return self._other(node, sum(sum(self._parts(argument)) for argument in node.arguments))
        raise UndefinedError("a variable without a value")

    def _power(self, node: Power) -> tuple[float, float]:
        if not isinstance(node.exponent, Number) or node.base in (_E, _PI):
            above, below = self._parts(node.base)
            size = _magnitude(self._budget, node.exponent)
            exponent = sum(self._parts(node.exponent))
            return self._other(node, (above + below + 2) * (size + 1) + exponent)
        above, below = self._parts(node.base)
        top, order = int(node.exponent.value.p), int(node.exponent.value.q)
        if order > 1:
            self._degrees[(node.base, order)] = float(order)
            if above >= below:
                above = (above + (order - 1) * below) / order
            else:
                below = ((order - 1) * above + below) / order
        if top < 0:
            above, below = below, above
        size = float(min(abs(top), 2**200))
        return above * size, below * size

    def _turn(self, node: Call) -> bool:
        argument = node.arguments[0]
        if isinstance(argument, Product) and len(argument.factors) == 2 and argument.factors[1] == _PI:
            turn = argument.factors[0]
            if isinstance(turn, Number):
                order = fmpz(2 * turn.value.q)
                if order.bit_length() < 64:
                    self._degrees[("turn", int(order))] = float(int(order.euler_phi()))
                    self._degrees[_I] = 2.0
                    return True
        return False

    def _other(self, node: Node, size: float) -> tuple[float, float]:
        self.transcendental = True
        self._degrees[node] = 2.0
        return size + 4, size + 4


def _magnitude(budget: Budget, node: Node) -> float:
    """About how large a number is, at least 1."""
    if isinstance(node, Number):
        return max(1.0, float(min(abs(node.value), fmpq(2) ** 200)))
    if has(node, lambda part: isinstance(part, Call) and part.function == "factorial"):
        return 2.0**60
    before = ctx.prec
    try:
        ctx.prec = _FIRST_BITS
        ball = _Balls(budget, _FIRST_BITS).of(node)
    finally:
        ctx.prec = before
    return max(1.0, float(ball.abs_upper())) if ball.is_finite() else 2.0**200


__all__ = ["Comparison", "UndecidedError", "UndefinedError"]
