"""What the gateway and the workers share: settings, records, scripts, errors, logs."""
