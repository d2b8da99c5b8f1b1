"""Consent: what the policy allows and an owner has not approved yet waits in the owner's inbox."""
