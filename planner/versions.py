"""Versions as tuples, and which server a distribution brings."""

import re

FLAVORS = ("mysql", "mariadb")
NAMES = {"mysql": "MySQL", "mariadb": "MariaDB"}
OLDEST = {"mysql": (8, 0), "mariadb": (10, 6)}
# Assumed where a plan is made on paper and nothing tells: the newest that the catalogue was checked on.
ASSUMED = {"mysql": "9.7.4", "mariadb": "11.8.6"}


def parse(text):
    """'10.11.18-MariaDB-0+deb12u1' -> (10, 11, 18)"""
    match = re.match(r"^\s*(?:\d+:)?(\d+)(?:\.(\d+))?(?:\.(\d+))?", str(text))
    if not match:
        raise ValueError(f"not a server version: {text}")
    return tuple(int(part or 0) for part in match.groups())


def from_facts(facts):
    """(flavor, version) of the distribution's own package, or (None, None)."""
    distribution = str(facts.get("distribution") or "")
    release = str(facts.get("distribution_release") or "")
    major = str(facts.get("distribution_major_version") or "")
    version = str(facts.get("distribution_version") or "")
    if distribution == "Debian":
        if major == "12":
            return "mariadb", "10.11.18"
        if major == "13":
            return "mariadb", "11.8.6"
        if release == "sid" or "sid" in version or "sid" in major:
            return "mysql", "9.7.4"
    if distribution == "Ubuntu":
        if major == "22" or major == "24":
            return "mysql", "8.0.42"
        if major.isdigit() and int(major) > 24:
            return "mysql", "8.4.6"
    return None, None
