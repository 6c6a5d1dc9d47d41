"""Published networks whose features images are compared by; weights are the user's."""
