"""The service: speech to text over HTTP, with many requests batched together."""
