"""From pictures to what a network reads."""
