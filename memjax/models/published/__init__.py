"""Published networks whose features pictures are compared by; weights are the user's."""
