"""Which training picture is most alike, and from where on it is a copy."""
