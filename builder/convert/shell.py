"""Split a script of a shell into its commands, as far as they run one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import tree_sitter
import tree_sitter_bash

# Words that a shell passes on as they are, once their quotes are removed.
_PLAIN = {"word", "string", "raw_string", "number", "concatenation", "command_name"}
# Change what the commands after them do.
_OF_THE_SHELL = {"cd", "pushd", "popd", "set", "shopt", "source", ".", "umask", "alias", "ulimit"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command as it is written.

    `words` are its program and arguments before variables are expanded, or empty if it is more than
    a program with arguments: a pipe, a condition, a redirection to a file. `changes_shell` says
    that the commands after it depend on it, as on `cd` and `export`.
    """

    text: str
    words: tuple[str, ...]
    changes_shell: bool = False


def commands_of(script: str) -> list[Command]:
    """Return the commands of a script in their order.

    A script that cannot be split, such as one with a syntax error, is a single command.
    """
    text = script.strip()
    root = _parser().parse(text.encode("utf-8", "surrogateescape")).root_node
    if root.has_error:
        return [Command(text=text, words=())]
    return [_command(*part) for part in _sequence(root)]


@cache
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _sequence(root: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the nodes that run one after the other, `a && b` and `a; b` as two, each with its
    redirections."""
    waiting: list[tuple[Any, list[Any]]] = [(root, [])]
    while waiting:
        node, redirections = waiting.pop()
        children = [child for child in node.named_children if child.type != "comment"]
        separators = {child.type for child in node.children if not child.is_named}
        if node.type == "program" and "&" not in separators:
            waiting += [(child, []) for child in reversed(children)]
        elif node.type == "list" and separators == {"&&"} and not _has_or(node):
            # The grammar has the redirections of the last command after the whole list.
            waiting.append((children[-1], redirections))
            waiting += [(child, []) for child in reversed(children[:-1])]
        elif node.type == "redirected_statement" and children[0].is_named:
            waiting.append((children[0], [*children[1:], *redirections]))
        else:
            yield node, redirections


def _has_or(node: Any) -> bool:
    """Return whether a `||` is among the commands of a list: it decides about those after it."""
    while node.type == "list":
        if any(child.type == "||" for child in node.children):
            return True
        node = node.named_children[0]
    return False


def _command(node: Any, redirections: list[Any]) -> Command:
    parts = [node.text, *(redirection.text for redirection in redirections)]
    text = b" ".join(parts).decode("utf-8", "surrogateescape")
    if node.type in ("declaration_command", "variable_assignment", "variable_assignments"):
        return Command(text=text, words=(), changes_shell=True)
    if node.type != "command" or not all(map(_is_silencing, redirections)):
        return Command(text=text, words=())
    words = []
    for child in node.named_children:
        if child.type == "variable_assignment":
            continue  # for this command alone
        if child.type not in _PLAIN or _has_substitution(child):
            return Command(text=text, words=())
        words.append(child.text.decode("utf-8", "surrogateescape"))
    changes_shell = bool(words) and words[0] in _OF_THE_SHELL
    return Command(text=text, words=tuple(words), changes_shell=changes_shell)


def _is_silencing(redirection: Any) -> bool:
    """Return whether a redirection only drops output, as `> /dev/null` and `2>&1` do."""
    children = redirection.named_children
    return bool(children) and children[-1].text in (b"/dev/null", b"1", b"2")


def _has_substitution(node: Any) -> bool:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.type in ("command_substitution", "process_substitution"):
            return True
        waiting += node.named_children
    return False
