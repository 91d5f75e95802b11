"""What tests are made of: small models, stand-ins, and cases of contracts."""
