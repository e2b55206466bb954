"""What was found wrong with a machine or an environment: a level, who and what, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mszoo.registry.errors import sentence
from mszoo.registry.text import printable

Level = Literal["problem", "warning", "info"]
_LONGEST = 8000
LEVELS: tuple[Level, ...] = ("problem", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        level: ``problem``: it breaks serving or a part of it; ``warning``: it may, or costs something; ``info``:
            worth knowing.
        who: the distribution, variable, plugin or machine that it is about.
        what: a clause without a closing period.
        hint: what to do about it; ends with the command where one mends it.
        fix: the command that mends it and asks nothing, as a list of arguments; ``mszoo doctor --fix`` shows it
            and runs it. Empty where people have to decide.
    """

    level: Level
    who: str
    what: str
    hint: str
    fix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("who", "what", "hint"):
            object.__setattr__(self, name, printable(getattr(self, name), _LONGEST))

    def __str__(self) -> str:
        return sentence(self.who, self.what, self.hint)
