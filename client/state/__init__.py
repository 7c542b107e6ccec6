"""What a site keeps of each campaign from one request to the next."""
