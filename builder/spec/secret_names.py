"""Recognize variables that are named like a secret, such as `PGPASSWORD` or `SMTP_PASS`."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Endings of names of secrets, also without a separator before them: `PGPASSWORD`.
_ENDINGS = (
    "password", "passwd", "passphrase", "passcode", "secret", "credential", "credentials", "token",
    "apikey", "authkey", "accesskey", "secretkey", "privatekey",
)  # fmt: skip
# Last words of names of secrets. Ordinary words end like them, too: bypass, monkey, oauth.
_WORDS = {"key", "pass", "pwd", "pw", "auth", "secrets", "passwords"}
# Short endings without a separator before them: `DBPASS`, `SSHPASS`, `BINDPW`.
_RUN_TOGETHER = re.compile(
    r"(?:db|sql|pg|ssh|ftp|smtp|imap|mail|user|root|admin|ldap|bind|redis|mongo|proxy|http|vnc|key"
    r"|store)(?:pass|pwd|pw)$"
)
_PLURAL = {"keys", "tokens"}
_OF_ACCESS = {"access", "api", "auth", "bearer", "private", "refresh", "secret"}
# Suffixes that do not change the meaning: `API_KEY_PROD`, `SECRET_KEY_BASE`.
_QUALIFIERS = {
    "b64", "base", "base64", "current", "dev", "json", "new", "old", "pem", "previous", "primary",
    "prod", "production", "raw", "secondary", "staging", "test", "value",
}  # fmt: skip
# Last word → words before it that make it harmless.
_ORDINARY = {
    "auth": {"no"},
    "key": {
        "cache", "foreign", "group", "index", "partition", "primary", "public", "publishable",
        "routing", "sort",
    },
    "pass": {
        "all", "band", "first", "high", "last", "low", "multi", "one", "second", "single", "two",
    },
    "token": {
        "bos", "cls", "end", "eos", "mask", "pad", "sep", "special", "start", "stop", "unk",
    },
}  # fmt: skip
# Values that switch something on or off, or select a method.
_SETTINGS = {
    "", "0", "1", "anonymous", "auto", "basic", "bearer", "default", "digest", "disabled",
    "enabled", "false", "jwt", "kerberos", "ldap", "no", "none", "null", "oauth", "oauth2", "off",
    "oidc", "on", "optional", "required", "saml", "true", "yes",
}  # fmt: skip
# Names whose value may be a path, which is not a secret itself.
_PLACES = {"pwd", "credentials"}
_PATH = re.compile(r"~?(?:/[\w.@-]+)+/?")
# `NAME=value` in a command, unless the value begins with `$`.
_ASSIGNMENT = re.compile(r"(?<![\w.$-])([A-Za-z_]\w{0,100})=['\"]?([^\s'\"$;&|]{1,1000})")


def names_a_secret(name: str, value: str) -> bool:
    """Return whether a variable is a secret: `DB_PASS`, but neither `FIRST_PASS` nor
    `HF_HUB_DISABLE_IMPLICIT_TOKEN = "1"`."""
    words = [word for word in name.lower().split("_") if word]
    if words[-2:] == ["auth", "config"]:
        words.pop()
    while words and (words[-1].isdigit() or words[-1] in _QUALIFIERS):
        words.pop()
    if not words or words == ["pwd"] or value.strip().lower() in _SETTINGS:
        return False
    last = words[-1].rstrip("0123456789")
    before = words[-2] if len(words) > 1 else ""
    if before in _ORDINARY.get(last, ()) or (last in _PLACES and _PATH.fullmatch(value)):
        return False
    return (
        last in _WORDS
        or last.endswith(_ENDINGS)
        or bool(_RUN_TOGETHER.search(last))
        or (last in _PLURAL and before in _OF_ACCESS)
    )


def assigned(command: str) -> Iterator[str]:
    """Yield the names of secrets that a command sets, as `env DB_PASS=…` does."""
    for name, value in _ASSIGNMENT.findall(command):
        if names_a_secret(name, value):
            yield name
