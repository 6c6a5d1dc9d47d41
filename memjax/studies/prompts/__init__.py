"""What an audit asks: prompts of known families, by labels or in words."""
