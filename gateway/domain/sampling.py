"""Even sampling without randomness: a share of 0.1 samples every tenth event. Pure."""


class EvenSampler:
    def __init__(self, share: float) -> None:
        """`share` is from 0 to 1."""
        self._share = share
        self._due = 0.0

    def samples(self) -> bool:
        """Return whether to sample the next event."""
        self._due += self._share
        # Slightly less than one: ten times 0.1 in binary is not 1.
        if self._due < 1.0 - 1e-9:
            return False
        self._due -= 1.0
        return True
