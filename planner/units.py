"""Sizes as the servers write them: a whole number and K, M, G or T."""

import re

UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
KIB, MIB, GIB = UNITS["K"], UNITS["M"], UNITS["G"]

_SIZE = re.compile(r"^([0-9]+)([KMGTkmgt])$")
_LOOSE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTkmgt]?)(?:i?[Bb]|bytes)?\s*$")


def size(text):
    """'256M' -> 268435456. A bare number is refused: 256 means something else to everybody."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ValueError("is not a size")
    word = str(text).strip()
    if word == "0":
        return 0
    match = _SIZE.match(word)
    if match:
        return int(match[1]) * UNITS[match[2].upper()]
    if re.match(r"^[0-9]+$", word):
        raise ValueError("a size needs a unit (K, M, G or T)")
    if re.match(r"^-\d", word):
        raise ValueError("a size cannot be negative")
    raise ValueError("is not a size: a whole number and one of K, M, G or T")


def suggestion(text):
    """A well-formed size near what was meant, for the mend; None where nothing can be guessed."""
    match = _LOOSE.match(str(text))
    if not match:
        return None
    number, unit = float(match[1]), match[2].upper()
    if unit:
        count = number * UNITS[unit]
    elif number >= 64 * KIB:
        count = number  # surely bytes
    else:
        count = number * MIB
    if count <= 0:
        return None
    return written(max(KIB, int(count) // KIB * KIB))


def written(count):
    """268435456 -> '256M'; what no unit divides stays a number of bytes."""
    for unit in "TGMK":
        if count and count % UNITS[unit] == 0:
            return f"{count // UNITS[unit]}{unit}"
    return str(count)


def human(count):
    """For people: at most one decimal, the largest unit that keeps it over one."""
    for unit in "TGMK":
        if abs(count) >= UNITS[unit]:
            figure = count / UNITS[unit]
            whole = figure >= 100 or figure == int(figure)
            return f"{figure:.{0 if whole else 1}f} {unit}iB"
    return f"{count} B"


def up_to(count, step):
    """The next multiple of step, from below."""
    return -(-count // step) * step
