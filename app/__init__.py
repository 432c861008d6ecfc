"""What pages use besides running prompts."""
