"""A searched knob as a report shows it: its range, and where a value lies in it."""

from dataclasses import dataclass

from trainables.space import Choice, Domain, Scalar, share


@dataclass(frozen=True)
class Knob:
    """What was searched of one knob.

    Args:
        name: the knob's.
        searched: its range, in words.
        scale: ``linear``, ``log``, ``one-minus-log`` or ``choice``.
        low, high: the range's ends; None for a choice.
        values: of a choice.
    """

    name: str
    searched: str
    scale: str
    low: float | None
    high: float | None
    values: tuple[Scalar, ...]

    @classmethod
    def of(cls, name: str, domain: Domain) -> "Knob":
        """A knob of a search space."""
        if isinstance(domain, Choice):
            return cls(name, str(domain), "choice", None, None, domain.values)
        return cls(name, str(domain), domain.scale, domain.low, domain.high, ())

    def share(self, value: Scalar) -> float:
        """Where in the range a value lies, from 0 to 1 on its scale; of a choice, by its place in the list."""
        if self.low is None or self.high is None:
            return self.values.index(value) / max(1, len(self.values) - 1)
        return share(self.scale, self.low, self.high, value)
