"""How the phantom's machines were fitted to real ones: what is measured of a picture, and the fit."""
