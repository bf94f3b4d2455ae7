"""The account's balance, charged by the emulated hour."""

from tensorpool_async.emulator.clock import Clock


class Ledger:
    """Settles lazily: the balance is worked out when it is read or when what is charged for changes."""

    def __init__(self, balance: float, clock: Clock) -> None:
        self._balance = balance
        self._clock = clock
        self._settled = 0.0
        self._rates: dict[str, float] = {}
        self._rate = 0.0

    @property
    def balance(self) -> float:
        """US dollars, now."""
        return self._balance - self._rate * self._clock.hours(self._settled, self._clock.now())

    @balance.setter
    def balance(self, dollars: float) -> None:
        self._balance = dollars
        self._settled = self._clock.now()

    @property
    def hourly_rate(self) -> float:
        """US dollars per hour that are being spent."""
        return self._rate

    def covers_a_day(self, hourly_rate: float) -> bool:
        return self.balance >= 24 * hourly_rate

    def charge(self, what: str, hourly_rate: float) -> None:
        """Charge for this from now on, at this rate instead of the one before."""
        self.stop(what)
        self._rates[what] = hourly_rate
        self._rate += hourly_rate

    def stop(self, what: str) -> None:
        self.balance = self.balance
        self._rate -= self._rates.pop(what, 0.0)
        if not self._rates:
            self._rate = 0.0
