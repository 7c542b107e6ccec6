"""One campaign: its sites, its loop over groups, its end."""
