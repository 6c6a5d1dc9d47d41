"""The ``memjax`` command: parse, call, write. One file a command."""
