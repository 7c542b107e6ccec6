"""Looks for what is wrong with a site's data before anybody trains on them."""
