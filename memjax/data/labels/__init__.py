"""How an image's labels and captions become token ids, and what uncertain ones mean."""
