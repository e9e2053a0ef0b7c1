"""Who asked, and may they look?"""

from __future__ import annotations

import ipaddress
import os
from functools import lru_cache
from importlib import import_module

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOCAL = ipaddress.ip_address("127.0.0.1")


@lru_cache(maxsize=8)
def networks(text: str) -> tuple:
    return tuple(ipaddress.ip_network(word.strip(), strict=False) for word in text.split(",") if word.strip())


def listed(name: str) -> tuple:
    """A list of networks, from the settings or else from the environment."""
    value = getattr(settings, name, None)
    if value is None:
        value = os.environ.get(name, "")
    return networks(value if isinstance(value, str) else ",".join(value))


def inside(address: Address, nets: tuple) -> bool:
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in net for net in nets)


def client_address(request: HttpRequest) -> Address | None:
    """The address behind a request; None where it cannot be told.

    X-Forwarded-For counts only when the peer is our own proxy: one that reached the unix socket (its
    mode lets in nobody else) or one of STATUS_TRUSTED_PROXIES. Anybody can write that header.
    """
    peer = request.META.get("REMOTE_ADDR") or ""
    header = request.META.get("HTTP_X_FORWARDED_FOR", "")
    forwarded = [part.strip() for part in header.split(",") if part.strip()]
    proxies = listed("STATUS_TRUSTED_PROXIES")
    try:
        address = ipaddress.ip_address(peer) if peer else None
        if address is not None and not inside(address, proxies):
            return address
        # From the right: what our own proxies appended is true, what stands left of that is hearsay.
        for part in reversed(forwarded):
            address = ipaddress.ip_address(part)
            if not inside(address, proxies):
                return address
    except ValueError:
        return None
    # Straight on the unix socket, without a proxy: somebody on this machine.
    return address or LOCAL


def is_staff(request: HttpRequest) -> bool:
    """Signed in as staff? Read here, for we answer before the project's session middleware has run."""
    if not (apps.is_installed("django.contrib.auth") and apps.is_installed("django.contrib.sessions")):
        return False
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not key:
        return False
    from django.contrib.auth import get_user

    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = get_user(request)
    return bool(user.is_active and getattr(user, "is_staff", False))


def allowed(request: HttpRequest) -> bool:
    address = client_address(request)
    if address is not None:
        real = getattr(address, "ipv4_mapped", None) or address
        if real.is_loopback or inside(real, listed("STATUS_ALLOWED_NETWORKS")):
            return True
    return is_staff(request)
