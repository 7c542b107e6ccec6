"""The running centre: proxy, SuperLink, and who is connected."""
