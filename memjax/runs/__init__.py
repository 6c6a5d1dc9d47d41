"""What a name becomes: a configuration, a model, a training, prompts, reference images."""
