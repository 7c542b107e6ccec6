"""What a private campaign would cost, and what it is worth."""
