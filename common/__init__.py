"""What the gateway and the workers share: settings, records, scripts, errors, logs."""

__version__ = "0.1.0"
