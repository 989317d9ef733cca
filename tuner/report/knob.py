"""A searched knob in a report: its range, and the position of a value in the range."""

from dataclasses import dataclass

from trainables.space import Choice, Domain, Scalar, share


@dataclass(frozen=True)
class Knob:
    """The searched range of one knob.

    Args:
        name: the knob's name.
        searched: the range in words, and when the knob applies.
        scale: ``linear``, ``log``, ``one-minus-log`` or ``choice``.
        low, high: the ends of the range; None for a choice.
        values: the values of a choice; empty for a range.
    """

    name: str
    searched: str
    scale: str
    low: float | None
    high: float | None
    values: tuple[Scalar, ...]

    @classmethod
    def of(cls, name: str, domain: Domain, searched: str = "") -> "Knob":
        """The knob of this name and domain in a search space; its range in words, if the domain does not say all."""
        searched = searched or str(domain)
        if isinstance(domain, Choice):
            return cls(name, searched, "choice", None, None, domain.values)
        return cls(name, searched, domain.scale, domain.low, domain.high, ())

    def share(self, value: Scalar) -> float:
        """The position of a value, from 0 to 1: on the scale of a range, or in the list of a choice."""
        if self.low is None or self.high is None:
            return self.values.index(value) / max(1, len(self.values) - 1)
        return share(self.scale, self.low, self.high, value)
