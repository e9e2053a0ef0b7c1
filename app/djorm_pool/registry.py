"""Every pool of this process: found by resolved parameters, never by alias, and forgotten after a fork."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any

from . import conf, upkeep
from .pool import FairPool

# Secrets: not part of the key, so a rotated password keeps its pool, and never seen in a message.
SECRETS = frozenset({"password", "passwd", "passfile", "sslpassword"})

_lock = threading.Lock()
_pools: dict[Any, FairPool] = {}
_options: dict[Any, conf.Options | None] = {}
_graveyard: list[Any] = []  # a parent's connections: kept for ever, closed never
epoch = 0  # grows when settings change or the process forks: caches look at it


def freeze(value: Any) -> Any:
    """A hashable image of a parameter; what cannot be hashed counts by identity (and is kept by the key)."""
    if isinstance(value, Mapping):
        if len(value) > 40:  # the driver's conversion table: one object a process
            return _Same(value)
        return tuple(
            sorted(((str(k), freeze(v)) for k, v in value.items() if k not in SECRETS), key=_by_name)
        )
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (type(value).__name__, value)


def _by_name(item: tuple[str, Any]) -> str:
    return item[0]


class _Same:
    """Equal only to an image of the very same object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__}>"


def options_for(wrapper: Any) -> conf.Options | None:
    """The options of this wrapper's alias, or None where it is not pooled. Raises ImproperlyConfigured."""
    given = wrapper.settings_dict["OPTIONS"].get("pool")
    key = (wrapper.alias, freeze(given))
    try:
        return _options[key]
    except KeyError:
        options = _options[key] = conf.for_alias(wrapper.alias, given)
        return options


def pool_for(wrapper: Any, params: Mapping[str, Any], options: conf.Options, driver: Any) -> FairPool:
    """The pool for these resolved parameters; made on first use."""
    settings = wrapper.settings_dict
    key = (
        driver.vendor,
        type(wrapper),
        freeze(params),
        settings["AUTOCOMMIT"],
        freeze(driver.key_extras(wrapper)),
        options,
    )
    pool = _pools.get(key)
    if pool is None:
        with _lock:
            pool = _pools.get(key)
            if pool is None:
                label = f"{wrapper.alias!r} ({driver.vendor} {driver.target(params)})"
                pool = _pools[key] = FairPool(driver, options, label)
    pool.aliases.add(wrapper.alias)
    upkeep.ensure()
    return pool


def pools(alias: str | None = None) -> list[FairPool]:
    """The pools of this process, or those that this alias has used."""
    found = list(_pools.values())
    return found if alias is None else [p for p in found if alias in p.aliases]


def close_pools(alias: str | None = None) -> None:
    """Close every idle connection (of one alias); lent ones are closed when they come back."""
    for pool in pools(alias):
        pool.close_idle()


def settings_changed(**kwargs: Any) -> None:
    """Receiver of Django's setting_changed: options are read again."""
    global epoch
    if str(kwargs.get("setting", "")).startswith("DJORM_POOL"):
        epoch += 1
        _options.clear()


def _after_fork_in_child() -> None:
    """The child has copies of the parent's sockets. It must neither use nor close them.

    Closing would send COM_QUIT to the server, on the parent's connection; so each descriptor is pointed at
    /dev/null, and the objects are kept for ever. No lock of the parent's is touched: whoever held it is not
    here.
    """
    global _lock, epoch
    _lock = threading.Lock()
    epoch += 1
    upkeep.after_fork_in_child()
    owners = []
    null = None
    for pool in list(_pools.values()):
        inherited, fds, holders = pool.after_fork_in_child()
        _graveyard.append(inherited)
        owners += holders
        for fd in fds:
            if null is None:
                null = os.open(os.devnull, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            try:
                os.dup2(null, fd, inheritable=False)
            except OSError:
                continue
    if null is not None:
        os.close(null)
    for owner, lease in owners:
        if owner is not None:
            owner._djorm_forget(lease)


# Say goodbye to the server: a connection that just breaks off counts as an aborted client there.
atexit.register(close_pools)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
