"""Certificates that are files on the controller: what a client would say of them, said before a run."""

import datetime

VAULT = "$ANSIBLE_VAULT;"


def ends(text):
    """(when the first certificate of TEXT begins, when it ends). ValueError where there is none."""
    from cryptography import x509  # Ansible brings it; a plan without certificates does without

    found = x509.load_pem_x509_certificates(text.encode())
    return found[0].not_valid_before_utc, found[0].not_valid_after_utc


def trouble(text, now=None):
    """Why no client would take it, or ""."""
    if text.startswith(VAULT):
        return ""
    now = now or datetime.datetime.now(datetime.UTC)
    try:
        begin, end = ends(text)
    except ValueError:
        return "holds no certificate (-----BEGIN CERTIFICATE-----)"
    if now > end:
        return f"expired on {end:%Y-%m-%d}"
    if now < begin:
        return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC"
    return ""
