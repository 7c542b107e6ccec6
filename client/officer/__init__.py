"""What the privacy officer is asked to sign, in a process of their own: the site asks, that one signs."""
