"""A model executed: float or emulated integers, and the one greedy decoder over both."""
