"""Operation ids: 128 random bits as 22 characters."""

from base64 import urlsafe_b64encode


def op_id(random: bytes) -> str:
    """16 bytes in base64url (RFC 4648, section 5) without padding."""
    return urlsafe_b64encode(random)[:22].decode()
