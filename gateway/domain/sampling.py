"""A share of what comes, taken evenly: of 0.1 each tenth. Pure: no chance is in it."""


class EvenSampler:
    def __init__(self, share: float) -> None:
        """`share` is from 0 to 1."""
        self._share = share
        self._due = 0.0

    def samples(self) -> bool:
        """Tell whether the next is taken."""
        self._due += self._share
        # A hair less than one: ten tenths of binary numbers are not a whole.
        if self._due < 1.0 - 1e-9:
            return False
        self._due -= 1.0
        return True
