"""What a site is: its folder, settings, policy, keys and hours."""
