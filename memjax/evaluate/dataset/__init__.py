"""What a data set holds before anything is trained on it."""
