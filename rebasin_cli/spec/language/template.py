"""Key templates: which tensors of a checkpoint a line of a spec matches.

`model.layers.{i}.{input,post_attention}_layernorm.weight?` is expanded into two templates without alternation
(`{bn|norm}` likewise, but a checkpoint then needs only one of them). Each becomes a regular expression, compiled when
the first key is tried, and a *skeleton* (every number replaced by `#`), by which thousands of keys find their few
candidate templates without trying every expression on every key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from rebasin_cli.spec.language import MOST_ALTERNATIVES, MOST_OPEN, Bindings, Pick, Ref, Value, binds_number, parse_ref

_TOKEN = re.compile(r"\{(?P<brace>[^{}]*)\}|(?P<glob>\*)|(?P<text>[^{}*]+)|(?P<bad>.)")
_NUMBER = re.compile(r"\d+")
_TEN = "0123456789"
_NUMBERS = re.compile(r"[\d#]+")
_WORD = r"[^.]+?"
_DIGITS = r"0|[1-9][0-9]*"
"""No leading zeros: `h.07` and `h.7` would be one number and two tensors."""


@lru_cache(maxsize=65536)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


@dataclass(frozen=True, slots=True)
class Choice:
    """`{side:input_blocks,output_blocks}` or `{n:0,2}`: one of some words or numbers, and which one is bound."""

    variable: str
    words: tuple[str, ...]


Token = str | Ref | Choice
GLOB = Ref("*", pick=Pick.ALL)


@dataclass(frozen=True, slots=True)
class Template:
    """One key template without alternation.

    Attributes:
        text: as written, after alternation was expanded.
        optional: whether it may match nothing (`?`).
        family: the text before `{a|b}` is expanded; a required family needs one template that matches.
        expression: the regular expression of its keys.
        rank: (wildcards, variables); of several templates for one key the lowest rank wins.
        first: the tokens with the first word of every `{a|b}`: it gives all spellings of a key one name.
        bound: of each group of the expression the variable that it binds, and what to subtract from a number; None
            for words.
    """

    text: str
    family: str
    optional: bool
    tokens: tuple[Token, ...]
    expression: str
    rank: tuple[int, int]
    variables: frozenset[str]
    scope: str
    first: tuple[Token, ...] = ()
    bound: tuple[tuple[str, int | None], ...] = ()

    @property
    def regex(self) -> re.Pattern[str]:
        """The expression, compiled once; most specs are parsed and never tried on a key."""
        return _compiled(self.expression)

    def match(self, key: str) -> dict[str, Value] | None:
        """The bindings under which the template is `key`, or None. `{first i}` and `{last i}` match like `{i}`."""
        found = self.regex.fullmatch(key)
        if found is None:
            return None
        bindings: dict[str, Value] = {}
        value: Value
        for value, (variable, offset) in zip(found.groups(), self.bound, strict=True):
            if offset is not None:
                value = int(value) - offset
                if value < 0:
                    return None
            if bindings.setdefault(variable, value) != value:
                return None
        return bindings

    def word_for_number(self, key: str) -> tuple[str, str] | None:
        """The variable that binds a number and the word in its place, if `key` matches except for that word."""
        regex, numbers = "", list[str]()
        words = [Ref("word") if isinstance(t, Ref) and t.is_number and t.variable != "*" else t for t in self.tokens]
        if _open_ends(words) > MOST_OPEN:
            return None
        for token in self.tokens:
            if isinstance(token, str):
                regex += re.escape(token)
            elif isinstance(token, Choice):
                regex += f"(?:{'|'.join(map(re.escape, token.words))})"
            elif token is GLOB or not token.is_number or token.variable == "*":
                regex += ".*" if token.variable == "*" else _WORD
            else:
                regex += "([^.]+)"
                numbers.append(token.variable)
        found = re.fullmatch(regex, key)
        met = zip(numbers, found.groups(), strict=True) if found else ()
        return next(((name, text) for name, text in met if not text.isdigit()), None)

    def under(self, prefix: str) -> Template:
        """The same template for keys that begin with `prefix`."""
        return _build((prefix, *self.tokens), prefix + self.family, self.optional, (prefix, *self.first))

    def picks(self) -> tuple[Ref, ...]:
        """The `{first i}` and `{last i}` of the template."""
        return tuple(t for t in self.tokens if isinstance(t, Ref) and t.pick in (Pick.FIRST, Pick.LAST))

    def key(self, bindings: Bindings) -> str | None:
        """The key that the template names under `bindings`; None where a wildcard or a pick leaves it open."""
        return None if self.picks() else _spelled(self.tokens, bindings)

    def name(self, bindings: Bindings) -> str | None:
        """The key under `bindings` with the first word of every `{a|b}`; None where a wildcard leaves it open."""
        return _spelled(self.first, bindings)

    @property
    def ends(self) -> tuple[str, str]:
        """How the skeletons of its keys begin and end, as far as words without variables tell."""
        first, last = (token if isinstance(token, str) else "" for token in (self.tokens[0], self.tokens[-1]))
        return _NUMBER.sub("#", first.rstrip(_TEN)), _NUMBER.sub("#", last.lstrip(_TEN))

    @property
    def skeletons(self) -> tuple[str, ...]:
        """The template with every number as `#`, for each of its choices; none if it has free words or wildcards."""
        parts: list[tuple[str, ...]] = []
        for token in self.tokens:
            if isinstance(token, str):
                parts.append((_NUMBER.sub("#", token),))
            elif isinstance(token, Choice):
                parts.append(tuple(dict.fromkeys(_NUMBER.sub("#", word) for word in token.words)))
            elif token.is_number and token.variable != "*":
                parts.append(("#",))
            else:
                return ()
        return tuple(_NUMBERS.sub("#", "".join(choice)) for choice in product(*parts))


def _spelled(tokens: tuple[Token, ...], bindings: Bindings) -> str | None:
    parts: list[str] = []
    for token in tokens:
        if isinstance(token, str):
            parts.append(token)
        elif token.variable not in bindings:
            return None
        else:
            parts.append(str(bindings[token.variable] if isinstance(token, Choice) else token.value(bindings)))
    return "".join(parts)


def skeleton_of(key: str) -> str:
    """`key` with every number as `#`."""
    return _NUMBER.sub("#", key)


def skeletons_of(keys: Collection[str]) -> list[str]:
    """`skeleton_of` of every key, in one substitution: there may be 100,000."""
    found = _NUMBER.sub("#", "\n".join(keys)).split("\n") if keys else []
    if len(found) != len(keys):  # a key has a line break
        return [skeleton_of(key) for key in keys]
    one_each = dict(zip(found, found, strict=True))  # of 100,000 most are one of a few
    return [one_each[skeleton] for skeleton in found]


def skeletons_by_key(keys: Collection[str]) -> dict[str, str]:
    """Every key with its skeleton."""
    return dict(zip(keys, skeletons_of(keys), strict=True))


def parse_templates(text: str) -> tuple[Template, ...]:
    """Parse one key of a spec into its templates, alternation expanded.

    Raises:
        ValueError: unbalanced braces, an empty template, or a reference that keys cannot have.
    """
    optional = text.endswith("?")
    body = text[:-1] if optional else text
    if not body:
        raise ValueError("an empty key template")
    pieces: list[tuple[tuple[Token, str, Token], ...]] = []
    for match in _TOKEN.finditer(body):
        if match["bad"]:
            raise ValueError(f"`{text}`: a lone `{match['bad']}` at character {match.start() + 1}")
        if match["text"]:
            pieces.append(((match["text"], match["text"], match["text"]),))
        elif match["glob"]:
            pieces.append(((GLOB, "*", GLOB),))
        else:
            try:
                pieces.append(_brace(match["brace"]))
            except ValueError as error:
                raise ValueError(f"`{text}`: {error}, at character {match.start() + 1}") from error
    check_alternatives(text, *pieces)
    return tuple(
        _build(
            tuple(token for token, _, _ in choice),
            "".join(shown for _, shown, _ in choice),
            optional,
            tuple(first for _, _, first in choice),
        )
        for choice in product(*pieces)
    )


def alternatives(text: str) -> tuple[str, ...]:
    """`in.{1,2}` as `in.1` and `in.2`; other braces stay as they are."""
    pieces = re.split(r"(\{[^{}]*\})", text)
    choices = [p[1:-1].split(",") if p.startswith("{") and "," in p else [p] for p in pieces]
    check_alternatives(text, *choices)
    return tuple("".join(choice) for choice in product(*choices))


def _brace(body: str) -> tuple[tuple[Token, str, Token], ...]:
    """The tokens that a brace may mean, each with its text in the family's name and its first spelling."""
    name, colon, words = body.partition(":")
    if colon:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not all(words.split(",")):
            raise ValueError(f"`{{{body}}}` should read {{name:one,two}}")
        if binds_number(name) and not all(word.isdigit() for word in words.split(",")):
            raise ValueError(f"`{{{body}}}`: `{name}` is one letter, so it binds numbers, as in {{{name}:0,2}}")
        choice = Choice(name, tuple(words.split(",")))
        return ((choice, f"{{{body}}}", choice),)
    if "|" in body:
        return tuple((word, f"{{{body}}}", body.partition("|")[0]) for word in body.split("|"))
    if "," in body:
        return tuple((word, word, word) for word in body.split(","))
    ref = parse_ref(body)
    if ref.pick not in (Pick.SAME, Pick.FIRST, Pick.LAST, Pick.ALL):
        raise ValueError(f"`{{{body}}}` cannot stand in a key; use it in a dim's name")
    return ((ref, f"{{{body}}}", ref),)


def _open_ends(tokens: Sequence[Token]) -> int:
    """The number of tokens whose match may end in several places, all of which are tried."""
    after: Token = ""
    count = 0
    for token in reversed(tokens):
        count += _is_open(token, after)
        after = token or after
    return count


def _is_open(token: Token, after: Token) -> bool:
    """Whether the next character does not mark the end of the text that matches `token`."""
    if isinstance(token, str):
        return False
    if isinstance(token, Choice):
        return sum(other.startswith(one) for one in token.words for other in token.words) > len(token.words)
    if token.pick is Pick.ALL:
        return True
    begins = after[:1] if isinstance(after, str) else "0"
    return begins.isdigit() if token.is_number else begins not in ("", ".")


def _build(tokens: tuple[Token, ...], family: str, optional: bool, first: tuple[Token, ...]) -> Template:
    regex: list[str] = []
    text: list[str] = []
    wildcards = variables = 0
    bound: list[tuple[str, int | None]] = []
    scope_end = 0
    for token in tokens:
        if isinstance(token, str):
            regex.append(re.escape(token))
            text.append(token)
            continue
        if isinstance(token, Choice):
            regex.append(f"({'|'.join(map(re.escape, token.words))})")
            text.append(f"{{{token.variable}:{','.join(token.words)}}}")
        elif token.pick is Pick.ALL:
            regex.append(".*")
            text.append("*")
            wildcards += 1
            continue
        else:
            regex.append(f"({_DIGITS if token.is_number else _WORD})")
            text.append(str(token))
        offset = token.offset if isinstance(token, Ref) else 0
        bound.append((token.variable, offset if binds_number(token.variable) else None))
        variables += 1 if not isinstance(token, Ref) or token.pick is Pick.SAME else 0
        scope_end = len(text)
    check_alternatives(family, *(token.words for token in tokens if isinstance(token, Choice)))
    if _open_ends(tokens) > MOST_OPEN:
        raise ValueError(
            f"`{family}` has more than {MOST_OPEN} wildcards or words whose end the next character does not tell"
        )
    return Template(
        text="".join(text) + ("?" if optional else ""),
        family=family,
        optional=optional,
        tokens=tokens,
        expression="".join(regex),
        rank=(wildcards, variables),
        variables=frozenset(variable for variable, _ in bound),
        scope="".join(text[:scope_end]),
        first=first,
        bound=tuple(bound),
    )


def check_alternatives(text: str, *choices: Sized) -> None:
    """Refuse alternatives that expand beyond `MOST_ALTERNATIVES`, before they are expanded.

    Raises:
        ValueError: they do.
    """
    count = prod(map(len, choices))
    if count > MOST_ALTERNATIVES:
        raise ValueError(f"`{text[:40]}…` stands for {count:,} names, and {MOST_ALTERNATIVES:,} are allowed")
