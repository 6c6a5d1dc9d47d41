"""Images of our own making: chest phantoms in CheXpert's layout, and scenes with captions."""
