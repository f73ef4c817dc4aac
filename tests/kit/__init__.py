"""What tests share: small models, worked examples and short ways to run things."""
