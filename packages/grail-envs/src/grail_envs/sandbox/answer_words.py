"""Words after a number: which only name what is counted, and which make it another number.

A closed list: numerals and parts, operations, comparisons, constants and letters by name, multipliers, doubt and denial.
Whatever holds one of them is not read. Standard library only; linear in the text.
"""

from __future__ import annotations

import re

_NUMERALS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
_NUMERALS += (
    "|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|dozen|gross|score|myriad"
)
_NUMERALS += "|lakh|crore|googol|quarter"
_ORDINALS = (
    "first|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth"
)
_ORDINALS += "|seventeenth|eighteenth|nineteenth|twentieth|thirtieth|fortieth|fiftieth|sixtieth|seventieth|eightieth|ninetieth"
_ORDINALS += "|hundredth|thousandth|dozenth|nth"
_NUMBER = re.compile(
    rf"(?:{_NUMERALS}){{0,2}}(?:{_NUMERALS}|{_ORDINALS}|(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)ie)(?:e?s)?|half|halves|halfs"
    rf"|[a-z]*illion(?:s|ths?)?|milliards?|(?:{_NUMERALS})fold|(?:deci|centi|milli|micro|nano|kilo|mega|giga|tera|mil|thou)"
    "|x{0,3}(?:i[ivx]|vi{0,3}|xi{0,3}|iii)"
)
_OPERATIONS = (
    "plus minus times over under divided multiplied added subtracted increased decreased reduced raised squared cubed "
)
_OPERATIONS += (
    "power powers exponent root sqrt cbrt factorial mod modulo sin cos tan cot csc sine cosine log ln exp logarithm inf "
)
_OPERATIONS += (
    "gcd lcm max abs double doubled triple tripled quadruple halved twice thrice negated reciprocal inverse inverted "
)
_OPERATIONS += "conjugate opposite repeating recurring repeated periodic permille permil mille ppm ppb basis "
_BASES = "base binary ternary octal hex hexadecimal decimal "
_INEXACT = "more less most least fewer fewest greater higher lower larger smaller bigger above below beyond exceeding maximum "
_INEXACT += "minimum upward upwards onward onwards than about approximately approx around roughly nearly almost circa ish "
_DENIALS = "negative positive not no never none nor neither is are was isnt wrong incorrect false untrue invalid undefined "
_DENIALS += "impossible unknown maybe perhaps possibly probably guess unsure except excluding without but off etc "
_CONSTANTS = "pi pis infinity infinities infinite infty oo euler imaginary alpha beta gamma delta epsilon zeta eta theta iota "
_CONSTANTS += "kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi omega"
_REFUSED = frozenset((_OPERATIONS + _BASES + _INEXACT + _DENIALS + _CONSTANTS).split())
_SHORT = "km cm mm dm ft lb lbs kg mg hr hrs sq cu yd yds mph kph rpm fps mps pts hz khz mhz kw kwh mw hp kb mb gb tb kn kj"
_ABBREVIATED = frozenset(_SHORT.split())
"""All words without a vowel that are no letters and no ending of a number (`xy`, `th`, `bn`)."""

_BETWEEN = frozenset(("and", "or", "of", "by", "to", "at"))
"""Plain between two other words (`cups of flour`), not at an end (`and counting`)."""

_BARE = re.compile(r"(.*[\d})])\s+([a-z]{3,}(?: [a-z]{3,}){0,3})", re.DOTALL)


def plain(said: str, gold_words: frozenset[str] = frozenset()) -> bool:
    """Whether words after a number only name what is counted; words that the gold says too do."""
    found = re.findall(r"[a-zA-Z]+", said)
    words = [word.lower() for word in found]
    ends = _BETWEEN - (gold_words & {"of"})
    if not words or words[0] in ends or words[-1] in ends:
        return False
    if any(len(word) == 1 and not (len(words) > 1 and word in "amgshlNJWVKCFAL") for word in found):
        return False  # a variable
    if words in (["square"], ["cube"], ["cubic"]):
        return False
    return all(word in gold_words or _names_a_thing(word) for word in words)


def _names_a_thing(word: str) -> bool:
    if word in _REFUSED or _NUMBER.fullmatch(word):
        return False
    return len(word) == 1 or word in _ABBREVIATED or re.search("[aeiou]|[^y]y[^y]{2}", word) is not None


def without_bare_words(text: str, gold_words: frozenset[str] = frozenset()) -> str:
    r"""The text without plain words at its end that `\text{}` does not mark: at least three letters each, one a vowel."""
    match = _BARE.fullmatch(text.strip())
    if match is None or not plain(match[2], gold_words):
        return text
    return match[1] if all(re.search("[aeiou]", word) for word in match[2].split()) else text


def words_in(text: str) -> frozenset[str]:
    r"""All words of two and more letters that are no command, in lower case."""
    return frozenset(re.findall(r"(?<![\\a-zA-Z])[a-z]{2,}", text.lower()))
