"""Operation ids: 128 random bits as 22 characters."""

from binascii import b2a_base64

_URLSAFE = bytes.maketrans(b"+/", b"-_")


def op_id(random: bytes) -> str:
    """16 bytes in base64url (RFC 4648, section 5) without padding."""
    return b2a_base64(random)[:22].translate(_URLSAFE).decode()
