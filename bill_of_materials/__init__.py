"""What the product is made of, from its lock files, in CycloneDX: `make sbom`."""
