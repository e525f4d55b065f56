"""Which variables are named like a secret, such as `PGPASSWORD` or `SMTP_PASS`."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The last word of the name of a secret, also where the word before runs into it: `PGPASSWORD`.
_ENDINGS = (
    "password", "passwd", "passphrase", "passcode", "secret", "credential", "credentials", "token",
    "apikey", "authkey", "accesskey", "secretkey", "privatekey",
)  # fmt: skip
# …and those that stand alone, since ordinary words end like them: bypass, monkey, oauth.
_WORDS = {"key", "pass", "pwd", "pw", "auth", "secrets", "passwords"}
# `DBPASS`, `SSHPASS`, `BINDPW`: short words that run into what they are the password of.
_RUN_TOGETHER = re.compile(
    r"(?:db|sql|pg|ssh|ftp|smtp|imap|mail|user|root|admin|ldap|bind|redis|mongo|proxy|http|vnc|key"
    r"|store)(?:pass|pwd|pw)$"
)
_PLURAL = {"keys", "tokens"}
_OF_ACCESS = {"access", "api", "auth", "bearer", "private", "refresh", "secret"}
# Where these follow, the name is that of the same secret: `API_KEY_PROD`, `SECRET_KEY_BASE`.
_QUALIFIERS = {
    "b64", "base", "base64", "current", "dev", "json", "new", "old", "pem", "previous", "primary",
    "prod", "production", "raw", "secondary", "staging", "test", "value",
}  # fmt: skip
# By the last word, the words before it with which it is something else.
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
# Values that switch something or name a way of doing it; nobody's secret.
_SETTINGS = {
    "", "0", "1", "anonymous", "auto", "basic", "bearer", "default", "digest", "disabled",
    "enabled", "false", "jwt", "kerberos", "ldap", "no", "none", "null", "oauth", "oauth2", "off",
    "oidc", "on", "optional", "required", "saml", "true", "yes",
}  # fmt: skip
# Where a secret is kept, or the folder that is worked in, is not itself one.
_PLACES = {"pwd", "credentials"}
_PATH = re.compile(r"~?(?:/[\w.@-]+)+/?")
# `NAME=value` in a command; a value that begins with `$` is taken from elsewhere when it runs.
_ASSIGNMENT = re.compile(r"(?<![\w.$-])([A-Za-z_]\w{0,100})=['\"]?([^\s'\"$;&|]{1,1000})")


def names_a_secret(name: str, value: str) -> bool:
    """Whether a variable of this name and value is a secret: `DB_PASS`, but not `FIRST_PASS`, nor
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
    """The names of secrets that a command sets, as `env DB_PASS=…` does."""
    for name, value in _ASSIGNMENT.findall(command):
        if names_a_secret(name, value):
            yield name
