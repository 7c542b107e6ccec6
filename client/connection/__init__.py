"""How a site joins the centre and stays connected."""
