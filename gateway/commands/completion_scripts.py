"""Scripts that complete the commands, options and values of `gateway` in a shell.

The words come from the parsers. The names of servers come from `gateway completion --servers`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.commands.arguments import CommandParser

FILES: Final = "files"
SERVERS: Final = "servers"
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class CommandWords:
    """The words that may follow a command."""

    path: str
    """The command's words, each after a blank: ` admin revoke`."""
    words: tuple[str, ...]
    kind: str
    """The kind of its arguments: FILES, SERVERS or OTHER."""
    values: Mapping[str, tuple[str, ...]]
    """The values of each option with values: words, FILES or OTHER."""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script of a shell."""
    commands = [*describe(parser)]
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def describe(parser: argparse.ArgumentParser, path: str = "") -> Iterator[CommandWords]:
    """Yield each command; loads their parsers."""
    if isinstance(parser, CommandParser):
        parser.load()
    words: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    kinds = [OTHER]
    below: Mapping[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # noqa: SLF001 - argparse lists them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            below = action.choices
            words += below
        elif action.option_strings:
            words += action.option_strings
            if action.nargs != 0:
                values |= dict.fromkeys(action.option_strings, _values(action))
        else:
            words += map(str, action.choices or ())
            kinds.append(_kind(action))
    yield CommandWords(path, tuple(words), kinds[-1], values)
    for name, one in below.items():
        yield from describe(one, f"{path} {name}")


def _kind(argument: argparse.Action) -> str:
    if argument.metavar == "SERVER":
        return SERVERS
    return FILES if argument.type is Path else OTHER


def _values(action: argparse.Action) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return (FILES,) if action.type is Path else (OTHER,)


def _values_by_path(commands: Iterable[CommandWords]) -> dict[tuple[str, ...], list[str]]:
    """Return for each set of values the options that have it: ` PATH OPTION`."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for command in commands:
        for option, values in command.values.items():
            found[values].append(f"{command.path} {option}")
    return found


def _cases(commands: Iterable[CommandWords]) -> tuple[str, str, str]:
    """Return cases of sh: of commands, of the words after them, and of the values of options."""
    commands = [*commands]
    paths = "|".join(f"'{one.path}'" for one in commands if one.path)
    words = "\n".join(
        f"    '{one.path}') offered='{' '.join(one.words)}' kind={one.kind} ;;" for one in commands
    )
    values = "\n".join(
        f"    {'|'.join(repr(one) for one in options)})\n"
        + (
            f"      offered='' kind={values[0]} ;;"
            if values[0] in (FILES, OTHER)
            else f"      offered='{' '.join(values)}' kind={OTHER} ;;"
        )
        for values, options in _values_by_path(commands).items()
    )
    return paths, words, values


_DESCRIBE: Final = """\
_gateway_describe() {{
  case "$1" in
{words}
  esac
  case "$1 $2" in
{values}
  esac
}}
"""


def _bash(commands: Iterable[CommandWords]) -> str:
    paths, words, values = _cases(commands)
    return f"""\
# Completion of gateway in bash: source <(gateway completion bash)
{_DESCRIBE.format(words=words, values=values)}
_gateway() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} at='' word offered='' kind='' i found=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$at ${{COMP_WORDS[i]}}" in
      {paths}) at="$at ${{COMP_WORDS[i]}}" ;;
    esac
  done
  _gateway_describe "$at" "${{COMP_WORDS[COMP_CWORD - 1]}}"
  if [[ $kind = {SERVERS} && $current != -* ]]; then
    # Names are never expanded by the shell, so compgen -W must not see them.
    while IFS= read -r word; do
      found+=("$word")
    done < <("${{COMP_WORDS[0]}}" completion --servers "$current" 2>/dev/null </dev/null)
  elif [[ $kind = {FILES} && $current != -* ]]; then
    compopt -o filenames 2>/dev/null  # quotes what the shell would run
    while IFS= read -r word; do
      found+=("$word")
    done < <(compgen -f -- "$current")
  fi
  if [[ $current = -* || $kind != {SERVERS} ]]; then
    for word in $offered; do
      [[ $word = -* && $current != -* ]] && continue
      [[ $word = "$current"* ]] && found+=("$word")
    done
  fi
  COMPREPLY=("${{found[@]}}")
}}
complete -F _gateway gateway"""


def _zsh(commands: Iterable[CommandWords]) -> str:
    paths, words, values = _cases(commands)
    return f"""\
#compdef gateway
# Completion of gateway in zsh: source <(gateway completion zsh)
{_DESCRIBE.format(words=words, values=values)}
_gateway() {{
  local current=${{words[CURRENT]}} at='' offered='' kind='' i
  local -a found
  for ((i = 2; i < CURRENT; i++)); do
    case "$at ${{words[i]}}" in
      {paths}) at="$at ${{words[i]}}" ;;
    esac
  done
  _gateway_describe "$at" "${{words[CURRENT - 1]}}"
  if [[ $current = -* ]]; then
    found=(${{(M)${{=offered}}:#-*}})
  elif [[ $kind = {SERVERS} ]]; then
    found=(${{(f)"$("${{words[1]}}" completion --servers "$current" 2>/dev/null </dev/null)"}})
  else
    found=(${{${{=offered}}:#-*}})
    [[ $kind = {FILES} ]] && _files
  fi
  (( $#found )) && compadd -- "${{found[@]}}"
}}
if [ "$funcstack[1]" = _gateway ]; then _gateway "$@"; else compdef _gateway gateway; fi"""


def _fish(commands: Iterable[CommandWords]) -> str:
    commands = [*commands]
    paths = " ".join(f"'{one.path}'" for one in commands if one.path)
    words = "\n".join(
        f"        case '{one.path}'\n            set offered {' '.join(one.words)}\n"
        f"            set kind {one.kind}"
        for one in commands
    )
    values = "\n".join(
        f"        case {' '.join(repr(one) for one in options)}\n"
        + (
            f"            set offered\n            set kind {values[0]}"
            if values[0] in (FILES, OTHER)
            else f"            set offered {' '.join(values)}\n            set kind {OTHER}"
        )
        for values, options in _values_by_path(commands).items()
    )
    return f"""\
# Completion of gateway in fish: gateway completion fish | source
function __gateway_complete
    set -l before (commandline -opc)
    set -l program $before[1]
    set -l previous $before[-1]
    set -e before[1]
    set -l current (commandline -ct)
    set -l at ''
    set -l offered
    set -l kind
    for word in $before
        switch "$at $word"
            case {paths}
                set at "$at $word"
        end
    end
    switch "$at"
{words}
    end
    switch "$at $previous"
{values}
    end
    if string match -q -- '-*' "$current"
        string match -- '-*' $offered
    else if test "$kind" = {SERVERS}
        $program completion --servers "$current" 2>/dev/null </dev/null
    else
        string match -v -- '-*' $offered
        test "$kind" = {FILES}; and __fish_complete_path "$current"
    end
end
complete -c gateway -f -a '(__gateway_complete)'"""
