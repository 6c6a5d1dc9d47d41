"""One reader a kind of data: settings in, training and held-out records out."""
