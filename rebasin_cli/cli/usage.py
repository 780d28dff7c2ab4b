"""Wrong usage as the option parser tells it, in three parts and with what was probably meant."""

from __future__ import annotations

import re
from typing import Any

from rebasin_cli.spec.hints import did_you_mean

_COMMAND = re.compile(r"No such command '(.*?)'\.")
_CHOICE = re.compile(r"'(?P<given>[^']*)' is not one of (?P<choices>'.*')")


def usage_parts(failure: Exception) -> tuple[str, str, str]:
    """What, where, and what to do next."""
    context = getattr(failure, "ctx", None)
    text = str(failure.format_message() if hasattr(failure, "format_message") else failure)
    path = context.command_path if context is not None else "rebasin"
    what, meant = _meant(failure, text, getattr(context, "command", None))
    return what, path, " ".join(filter(None, (meant, f"`{path} --help` shows the usage")))


def _meant(failure: Exception, text: str, command: Any) -> tuple[str, str]:
    """The mistake, and the words that are nearest to a wrong one."""
    option = getattr(failure, "option_name", None)
    if command is not None and option and "No such option" in text:
        known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        return f"there is no option `{option}`", did_you_mean(option, [*known, "--help"])
    if command is not None and (found := _COMMAND.match(text)):
        return f"there is no command `{found[1]}`", did_you_mean(found[1], getattr(command, "commands", ()))
    what = (text[:1].lower() + text[1:]).rstrip(".").replace("Value error, ", "")
    choice = _CHOICE.search(text)
    return what, did_you_mean(choice["given"], re.findall("'([^']*)'", choice["choices"])) if choice else ""
