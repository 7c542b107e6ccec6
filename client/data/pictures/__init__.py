"""Pictures: decoded, de-identified, and laid out as arrays."""
