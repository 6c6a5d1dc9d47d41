"""Which training image is most alike, and from where on it is a copy."""
