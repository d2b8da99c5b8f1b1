"""Who speaks: certificates, enrolment, signed requests, and their verification.

`authority` (certificates and identities), `enrol`, `requests` (the signing side) and `directory` need only cryptography
and httpx, so an agent can import them; `verify` and `nonces` belong to the services.
"""
