"""Passwords and certificates on the controller: made once, kept in files of mode 0600, never made again.

Runs on the controller alone, without a round trip to the host.
"""

import contextlib
import datetime
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import string

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

ALPHABET = string.ascii_letters + string.digits
LENGTH = 32
# A rotation that is under way: {"began": when, "old": {name: a mark of the password that goes}}.
ROTATION = "rotation.json"
RENEW_DAYS = 30
CA_DAYS, SERVER_DAYS = 3650, 730


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(
        ("folder", "passwords", "on_server", "unsure", "tls", "host", "names", "given", "rotate", "rotated")
    )

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        wanted = self._task.args
        self.folder = os.path.expanduser(wanted["folder"])
        self.check = self._task.check_mode
        self.host, self.made = wanted.get("host", ""), []
        if not self.check:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if wanted.get("rotate") or wanted.get("rotated"):
            with self.alone():
                result.update(self.rotate(wanted) if wanted.get("rotate") else self.end_rotation())
            return result
        with self.alone():
            self.refuse_orphans(wanted)
            result["passwords"] = {
                name: self.password(name, given) for name, given in (wanted.get("passwords") or {}).items()
            }
            result["tls"] = self.certificates(wanted["tls"]) if wanted.get("tls") else {}
        result.update(changed=bool(self.made), made=self.made, rotating=os.path.exists(self.path(ROTATION)))
        return result

    @contextlib.contextmanager
    def alone(self):
        """Several hosts are worked on at once; the first one makes a secret, the others read it."""
        if self.check:
            yield
            return
        with open(os.path.join(self.folder, ".lock"), "w", encoding="ascii") as handle:
            os.fchmod(handle.fileno(), 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        try:
            with open(self.path(name), encoding="utf-8") as handle:
                return handle.read()
        except FileNotFoundError:
            return ""

    def write(self, name, text, mode=0o600):
        self.made.append(name)
        if self.check:
            return
        handle = os.open(self.path(name) + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
        os.replace(self.path(name) + ".new", self.path(name))

    # --- passwords ---------------------------------------------------------------------------------------
    def refuse_orphans(self, wanted):
        """An account that exists has a password that somebody else's controller made."""
        problems = []
        for name, given in (wanted.get("passwords") or {}).items():
            file = f"mysql_{name}_password"
            if given or self.read(file).strip():
                continue
            if name in (wanted.get("on_server") or []):
                problems.append(
                    f"{self.host}: mysql_{name}_password: the account is on the server, and this controller "
                    f"has neither the variable nor {self.path(file)}; mend: copy that file from the "
                    "controller that made it, or set the variable in your vault. It is never made anew, "
                    "as the applications would be locked out. Where somebody else's account has this name, "
                    f"set mysql_{name}_user to another"
                )
            elif wanted.get("unsure"):
                problems.append(
                    f"{self.host}: mysql_{name}_password: the server has data but does not answer, so that "
                    f"nobody can tell whether the account exists, and this controller lacks "
                    f"{self.path(file)}; mend: start the server, or copy that file here"
                )
        if problems:
            raise AnsibleActionFail("\n".join(problems))

    def password(self, name, given):
        if given:
            return str(given)
        file = f"mysql_{name}_password"
        text = self.read(file).strip()
        if not text:
            text = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
            self.write(file, text + "\n")
        return text

    # --- rotation ----------------------------------------------------------------------------------------
    def rotate(self, wanted):
        """New passwords in the place of the old ones. One that was begun and cut off is gone on with, as the
        servers may know its passwords already.
        """
        ours, given, names = list(wanted["names"]), list(wanted["given"]), list(wanted["rotate"])
        problems = [
            f"{self.host}: rotate_accounts: {name} is no account of ours; mend: some of {', '.join(ours)}"
            for name in names
            if name not in ours
        ]
        problems += [
            f"{self.host}: mysql_{name}_password: a variable says it, so only you can change it; mend: give "
            "it a new value and run playbook.yml (the old one is valid until all applications have it), "
            f"or leave {name} out of rotate_accounts"
            for name in names
            if name in given
        ]
        problems += [
            f"{self.host}: mysql_{name}_password: there is no {self.path(f'mysql_{name}_password')} to "
            "rotate; mend: copy the folder from the controller that deployed"
            for name in names
            if name in ours and name not in given and not self.read(f"mysql_{name}_password").strip()
        ]
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        text = self.read(ROTATION)
        if text:
            state = json.loads(text)
        else:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            state = {"began": now, "old": {name: self.mark(name) for name in names}}
            self.write(ROTATION, json.dumps(state))
        for name, old in state["old"].items():
            if self.mark(name) == old:
                password = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
                self.write(f"mysql_{name}_password", password + "\n")
        return {"changed": bool(self.made), "began": state["began"], "resumed": bool(text)}

    def mark(self, name):
        """Tells whether the password is still the same, and not what it is."""
        return hashlib.sha256(self.read(f"mysql_{name}_password").encode()).hexdigest()

    def end_rotation(self):
        """Every server and application has the new passwords."""
        if not os.path.exists(self.path(ROTATION)):
            return {"changed": False}
        if not self.check:
            os.unlink(self.path(ROTATION))
        return {"changed": True}

    # --- certificates ------------------------------------------------------------------------------------
    def certificates(self, tls):
        """Texts for the server; empty where what it has is good."""
        state, names = tls.get("state") or {}, [str(name) for name in tls["names"] if name]
        authority, key = self.read("ca.pem"), self.read("ca-key.pem")
        if not authority and state.get("verified") and state.get("authority"):
            authority = state["authority"]  # another controller made it; it is no secret
            self.write("ca.pem", authority, 0o644)
        if authority and key and days_left(authority) < RENEW_DAYS:
            # With the same key: what it signed stays good, also to clients that have the old one yet.
            authority = make_authority(key)[0]
            self.write("ca.pem", authority, 0o644)
        good = (
            state.get("present")
            and state.get("verified")
            and state.get("authority", "").strip() == authority.strip()
            and state.get("days", 0) >= RENEW_DAYS
            and set(names) <= set(state.get("names", []))
            and (state.get("client") or not tls.get("client"))
        )
        if good:
            return {}
        if authority and not key:
            raise AnsibleActionFail(
                f"{self.host}: the server needs a new certificate, and this controller has "
                f"{self.path('ca.pem')} without its key; mend: copy {self.path('ca-key.pem')} from the "
                "controller that made it"
            )
        if not authority:
            authority, key = make_authority()
            self.write("ca-key.pem", key)
            self.write("ca.pem", authority, 0o644)
        self.made.append(f"certificate of {names[0]}")
        cert, own = make_server(authority, key, names)
        return {"ca": authority, "cert": cert, "key": own}


def _pem(key):
    from cryptography.hazmat.primitives import serialization as s

    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()


def _builder(subject, issuer, public, days):
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _named(text):
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text[:64])])


def days_left(certificate):
    from cryptography import x509

    end = x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
    return (end - datetime.datetime.now(datetime.UTC)).days


def make_authority(key=""):
    """(certificate, key), of a new key where none is given."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = (
        serialization.load_pem_private_key(key.encode(), None)
        if key
        else ec.generate_private_key(ec.SECP256R1())
    )
    name = _named("Database authority")
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    cert = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)


def make_server(authority, authority_key, names):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer = x509.load_pem_x509_certificate(authority.encode())
    signer = serialization.load_pem_private_key(authority_key.encode(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = []
    usage = x509.ExtendedKeyUsageOID
    for name in dict.fromkeys(names):
        # An address goes in as a name, too: older client libraries compare names alone.
        alternatives.append(x509.DNSName(name))
        with contextlib.suppress(ValueError):
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
    cert = (
        _builder(_named(names[0]), issuer.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # A node of a cluster is a client of the other nodes.
        .add_extension(x509.ExtendedKeyUsage([usage.SERVER_AUTH, usage.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)
