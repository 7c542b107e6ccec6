"""``synofed site check``: find what would go wrong before a campaign begins."""
