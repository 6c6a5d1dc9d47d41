"""Tables in, HTML, PNG and CSV out."""
