"""``synofed site check``: what would go wrong, said before a campaign begins."""
