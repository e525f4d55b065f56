"""The type of the key `network` in a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Discriminator, StrictStr, Tag, WithJsonSchema

from builder.sandbox.network import ALLOW, NONE, host_pattern, network_word, not_empty

_WORD, _HOSTS = "[word]", "[hosts]"
# pydantic adds these to the path of a mistake in such a value.
KINDS = (_WORD, _HOSTS)

_Word = Annotated[StrictStr, BeforeValidator(network_word), WithJsonSchema({"enum": [NONE, ALLOW]})]
_Hosts = Annotated[
    list[Annotated[StrictStr, AfterValidator(host_pattern)]], AfterValidator(not_empty)
]
# Distinguished by hand, so that a message is about the form that the user wrote.
NetworkValue = Annotated[
    Annotated[_Word, Tag(_WORD)] | Annotated[_Hosts, Tag(_HOSTS)],
    Discriminator(lambda value: _HOSTS if isinstance(value, list) else _WORD),
]
