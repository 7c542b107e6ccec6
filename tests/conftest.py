"""What all tests share: property tests draw the same examples each time, and time never decides."""

from hypothesis import settings

settings.register_profile("synofed", deadline=None, derandomize=True)
settings.load_profile("synofed")
