"""Options: what exists, what is allowed, what was given.

Every mistake is an ImproperlyConfigured that names the setting, what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

SETTING = "DJORM_POOL_OPTIONS"
PESSIMISTIC_SETTING = "DJORM_POOL_PESSIMISTIC"

# Names that people bring from elsewhere, and the option that does that here.
FOREIGN_NAMES = {
    "min_size": "min_idle",
    "max_size": "pool_size",
    "max_idle": "idle_timeout",
    "max_lifetime": "recycle",
    "max_overflows": "max_overflow",
    "pool_recycle": "recycle",
    "pool_timeout": "timeout",
    "pool_pre_ping": "pessimistic",
    "reset_on_return": "reset",
    "min": "min_idle",
    "max": "pool_size",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """One alias's options. Times are in seconds (int or float)."""

    pool_size: int = 5
    """Connections kept open, at least 1 (0, "no limit", only with allow_unbounded)."""
    max_overflow: int = 10
    """Further connections under load, closed when they come back; -1 (no limit) only with allow_unbounded."""
    recycle: float = 3600
    """Longest life of a connection; -1: no limit. Never beyond 0.8 of the server's wait_timeout."""
    timeout: float = 30
    """How long a borrower waits for a connection before django.db.OperationalError."""
    max_waiting: int | None = None
    """Refuse at once when so many wait already; None: no limit."""
    use_lifo: bool = True
    """Lend the most recently used idle connection, so that idle ones can shrink away."""
    pessimistic: bool | str = "auto"
    """True: SELECT 1 at each checkout; False: no check; "auto": no round trip where the socket tells."""
    pre_ping: bool | None = None
    """SQLAlchemy's name for `pessimistic` True or False."""
    release: str = "request"
    """"request": held until the request ends; "statement": given back between statements."""
    reset: str = "auto"
    """Session reset on return: "auto" when something was changed, "always", or "off"."""
    jitter: float = 0.1
    """Share of `recycle` (0 to 0.5) by which lives differ, so that connections do not all expire at once."""
    ping_after_idle: float = 30
    """With "auto": a connection idle for longer is pinged, not only polled; 0: never ping."""
    ping_timeout: float = 5
    """A check that takes longer counts as failed and the connection is dropped."""
    keepalive: float = 0
    """Ping idle connections every so many seconds in the background; 0: off."""
    idle_timeout: float = 600
    """Close a connection that has been idle so long, down to `min_idle`; 0: keep it."""
    min_idle: int = 0
    """Idle connections kept ready in the background, at most pool_size."""
    connect_retry: float = 5
    """How long a new checkout waits for a server that cannot be reached; 0: fail at once."""
    renew_file: str = ""
    """When this file changes, connections opened before are no longer good (the address leads to another
    server, the server has other values for sessions): they go, unharmed."""
    leak_after: float = 0
    """Log a connection that is held for longer, with thread, age, path and stack; 0: off."""
    leak_stack: bool = False
    """Keep the stack of each checkout for that report (costs about 20 us a checkout)."""
    allow_unbounded: bool = False
    """Permit pool_size 0 and max_overflow -1: no limit at all."""
    echo: bool = False
    """SQLAlchemy's own pool log."""

    @property
    def limit(self) -> int | None:
        """The most connections this process opens; None: no limit."""
        if self.pool_size == 0 or self.max_overflow == -1:
            return None
        return self.pool_size + self.max_overflow

    def as_dict(self) -> dict[str, Any]:
        """The options as plain data, for status()."""
        return {name: getattr(self, name) for name in KNOWN if name != "pre_ping"}


KNOWN = {field.name: field for field in dataclasses.fields(Options)}


def _int(low: int) -> tuple[str, Callable[[Any], bool]]:
    return (
        f"a whole number, {low} or more",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low,
    )


def _seconds(low: float = 0, high: float | None = None) -> tuple[str, Callable[[Any], bool]]:
    bound = f"{low} or more" if high is None else f"from {low} to {high}"
    return (
        f"a number, {bound}",
        lambda v: (
            isinstance(v, int | float)
            and not isinstance(v, bool)
            and v >= low
            and (high is None or v <= high)
        ),
    )


def _choice(*allowed: Any) -> tuple[str, Callable[[Any], bool]]:
    # `in` would let 1 pass for True
    return (
        "one of " + ", ".join(repr(a) for a in allowed),
        lambda v: any(type(v) is type(a) and v == a for a in allowed),
    )


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "pool_size": _int(0),
    "max_overflow": _int(-1),
    "recycle": (
        "a number of seconds above 0, or -1 for no limit",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and (v > 0 or v == -1),
    ),
    "timeout": _seconds(),
    "max_waiting": (
        "None or a whole number, 0 or more",
        lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool) and v >= 0),
    ),
    "use_lifo": _choice(True, False),
    "pessimistic": _choice(True, False, "auto"),
    "pre_ping": _choice(True, False, None),
    "release": _choice("request", "statement"),
    "reset": _choice("auto", "always", "off"),
    "jitter": _seconds(0, 0.5),
    "ping_after_idle": _seconds(),
    "ping_timeout": _seconds(0.01),
    "keepalive": _seconds(),
    "idle_timeout": _seconds(),
    "min_idle": _int(0),
    "connect_retry": _seconds(),
    "renew_file": (
        "the absolute path of a file, or ''",
        lambda v: isinstance(v, str) and (not v or v.startswith("/")),
    ),
    "leak_after": _seconds(),
    "leak_stack": _choice(True, False),
    "allow_unbounded": _choice(True, False),
    "echo": _choice(True, False),
}


def parse(given: Any, where: str) -> dict[str, Any]:
    """Check one dictionary of options.

    `where` names the setting for the message. Raises ImproperlyConfigured; never changes `given`.
    """
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{where} is {given!r}: give a dictionary of options, or leave it out.")
    for name, value in given.items():
        if name not in KNOWN:
            raise ImproperlyConfigured(f"{where}: unknown option {name!r}. {_suggest(name)}")
        text, allowed = _RULES[name]
        if not allowed(value):
            raise ImproperlyConfigured(f"{where}[{name!r}] is {value!r}: give {text}.")
    return dict(given)


def _suggest(name: Any) -> str:
    known = ", ".join(sorted(KNOWN))
    guess = FOREIGN_NAMES.get(str(name).lower())
    if guess is None:
        close = difflib.get_close_matches(str(name).lower(), KNOWN, n=1)
        guess = close[0] if close else None
    return f"Did you mean {guess!r}? Known options: {known}." if guess else f"Known options: {known}."


def build(given: Mapping[str, Any], where: str) -> Options:
    """Options out of checked values; refuses combinations that cannot work."""
    values = dict(given)
    pre_ping = values.pop("pre_ping", None)
    if pre_ping is not None:
        if values.get("pessimistic", pre_ping) != pre_ping:
            raise ImproperlyConfigured(
                f"{where}: pre_ping is {pre_ping!r} and pessimistic is {values['pessimistic']!r}; they are "
                f"the "
                "same switch. Keep one."
            )
        values["pessimistic"] = pre_ping
    options = Options(**values)
    if options.limit is None and not options.allow_unbounded:
        name, value = ("pool_size", 0) if options.pool_size == 0 else ("max_overflow", -1)
        raise ImproperlyConfigured(
            f"{where}[{name!r}] is {value}, which means no limit at all (as in SQLAlchemy). Give a real "
            f"limit, or "
            "set 'allow_unbounded': True if the server can never be exhausted."
        )
    if options.pool_size and options.min_idle > options.pool_size:
        raise ImproperlyConfigured(
            f"{where}['min_idle'] is {options.min_idle}, more than pool_size ({options.pool_size}): at most "
            "pool_size connections stay idle."
        )
    return options


def global_options() -> dict[str, Any]:
    """DJORM_POOL_OPTIONS and DJORM_POOL_PESSIMISTIC, checked. Raises ImproperlyConfigured."""
    check_names()
    values = parse(getattr(settings, SETTING, {}), SETTING)
    if hasattr(settings, PESSIMISTIC_SETTING):
        value = getattr(settings, PESSIMISTIC_SETTING)
        text, allowed = _RULES["pessimistic"]
        if not allowed(value):
            raise ImproperlyConfigured(f"{PESSIMISTIC_SETTING} is {value!r}: give {text}.")
        for name in ("pessimistic", "pre_ping"):
            if values.get(name, value) not in (value, None):
                raise ImproperlyConfigured(
                    f"{PESSIMISTIC_SETTING} is {value!r} and {SETTING}[{name!r}] is {values[name]!r}. Keep "
                    f"one."
                )
        values["pessimistic"] = value
        values.pop("pre_ping", None)
    return values


def check_names() -> None:
    """Refuse a misspelt DJORM_POOL_* setting: Django would ignore it silently."""
    right = {SETTING, PESSIMISTIC_SETTING}
    for name in dir(settings):
        if name.startswith(("DJORM_POOL", "DJORMPOOL", "DJORM_EXT_POOL")) and name not in right:
            close = difflib.get_close_matches(name, right, n=1, cutoff=0.3)
            raise ImproperlyConfigured(
                f"Unknown setting {name}. Did you mean {close[0] if close else SETTING}? "
                f"djorm_pool reads {SETTING} and {PESSIMISTIC_SETTING}."
            )


def for_alias(alias: str, alias_pool: Any) -> Options | None:
    """The options of one alias, or None where it is not pooled.

    `alias_pool` is DATABASES[alias]["OPTIONS"]["pool"]: None or True (the global options), False (not pooled)
    or a dictionary laid over the global options. Raises ImproperlyConfigured.
    """
    where = f"DATABASES[{alias!r}]['OPTIONS']['pool']"
    if alias_pool is False:
        return None
    values = global_options()
    label = SETTING
    if alias_pool is not None and alias_pool is not True:
        own = parse(alias_pool, where)
        if "pre_ping" in own or "pessimistic" in own:
            values.pop("pre_ping", None)
            values.pop("pessimistic", None)
        values.update(own)
        label = where
    return build(values, label)
