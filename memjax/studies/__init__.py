"""Studies: which prompts, under which mitigations, seen by which detectors and measures."""
