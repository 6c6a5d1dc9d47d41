"""What every process needs, whatever it computes: files, hosts, devices, memory, provenance."""
