"""Sets of MySQL's global transaction identifiers, as far as two of them are compared."""


def parse(text):
    """'uuid:1-5:7, uuid:tag:2' -> {(uuid, tag): [(1, 5), (7, 7)]}; ValueError for what is no such set."""
    found = {}
    for entry in "".join(str(text or "").split()).lower().split(","):
        uuid, _, rest = entry.partition(":")
        if not entry:
            continue
        tag, intervals = "", found.setdefault((uuid, ""), [])
        for word in rest.split(":"):
            if word[:1].isalpha() or word[:1] == "_":
                tag = word
                intervals = found.setdefault((uuid, tag), [])
                continue
            first, _, last = word.partition("-")
            intervals.append((int(first), int(last or first)))
    return {source: merged(intervals) for source, intervals in found.items() if intervals}


def merged(intervals):
    result = []
    for first, last in sorted(intervals):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def covers(more, less):
    """Is every transaction of `less` in `more`?"""
    have = parse(more)
    return all(
        any(a <= first and last <= b for a, b in have.get(source, ()))
        for source, intervals in parse(less).items()
        for first, last in intervals
    )


def has_source(text, uuid):
    return any(source == str(uuid).lower() for source, _ in parse(text))


def count(text):
    return sum(last - first + 1 for intervals in parse(text).values() for first, last in intervals)
