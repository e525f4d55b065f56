"""Why hosts are refused, and what the result of the code says about it."""

from __future__ import annotations

import pytest

from builder.sandbox.network import Network
from builder.targets.local.confine.refusals import Reason, Refusal, notes, refusal

LIST = Network.of(["example.com", "*.example.org"])


@pytest.mark.parametrize(
    ("reason", "answer", "note"),
    [
        (
            Reason.UNLISTED,
            "the `network` of this sandbox does not allow h",
            "connections were refused to hosts that `network` does not list: h (2 times); add them"
            " to it in the spec, or in `network=` when the sandbox is opened",
        ),
        (
            Reason.ADDRESS,
            "the `network` of this sandbox lists names, and h is an address",
            "connections were refused to addresses, since `network` lists names: h (2 times); use"
            ' the name of a host that it lists, or `network = "allow"`',
        ),
        (
            Reason.PRIVATE,
            "h is not on the Internet, and sandboxes do not reach this machine or private networks",
            "connections were refused to hosts on this machine or in private networks, which no"
            " `network` allows: h (2 times)",
        ),
        (
            Reason.UNRESOLVED,
            "h cannot be resolved on this machine, and may be in a private network",
            "connections were refused to hosts that this machine cannot resolve, and that may be in"
            " a private network: h (2 times); through a proxy, sandboxes reach such a host if"
            " `network` lists it",
        ),
    ],
)
def test_each_reason_has_its_words(reason: Reason, answer: str, note: str) -> None:
    """The answer to the code and the note of its result say why a host was refused, and what
    changes that."""
    refused = Refusal("h", reason)
    assert (str(refused), list(notes({refused: 2}))) == (answer, [note])


def test_reasons_have_notes_of_their_own() -> None:
    """There is one note for each reason, with all of its hosts."""
    refused = {
        Refusal("a.org", Reason.PRIVATE): 1,
        Refusal("b.org", Reason.UNLISTED): 1,
        Refusal("c.org", Reason.PRIVATE): 1,
    }
    unlisted, private = notes(refused)
    assert "list: b.org; add" in unlisted
    assert private.endswith(": a.org, c.org")


def test_note_of_many_hosts_is_short() -> None:
    """A note names ten hosts, and says how many more there are."""
    refused = {Refusal(f"{number}.org", Reason.PRIVATE): 1 for number in range(12)}
    (note,) = notes(refused)
    assert note.endswith("allows: " + ", ".join(f"{n}.org" for n in range(10)) + ", and 2 more")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("example.com", None),
        ("a.example.org", None),
        ("example.org", Reason.UNLISTED),
        ("localhost", Reason.UNLISTED),
        ("xn--bcher-kva.example", Reason.UNLISTED),
        *((host, Reason.ADDRESS) for host in ("1.1.1.1", "2606:4700::1111", "fe80::a", "127.1")),
        *((host, Reason.ADDRESS) for host in ("2130706433", "0x7f.1", "a.0x7f", "0177.0.0.1")),
    ],
)
def test_list_refuses_other_names_and_all_addresses(host: str, reason: Reason | None) -> None:
    """A list refuses other names, and addresses in every form, each with its reason."""
    assert refusal(LIST, host) == (reason and Refusal(host, reason))
