"""What an audit is about: a run of labels, or a model of text; here alone the two differ."""
