"""What needs torch and proves nothing: the policy model, sampling as section 4 says, prompts."""
