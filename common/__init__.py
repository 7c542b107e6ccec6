"""The pure core that site and centre must agree on."""
