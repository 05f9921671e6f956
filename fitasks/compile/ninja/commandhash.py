"""The hashes under which ninja remembers commands, so that a log can be written for a build that is proven equal.

ninja has no way to say "this output is current" without running its command. Whatever is written with these is
shown to ninja itself (`ninja -n`) before anything relies on it, so a mistake here costs a compile and nothing else.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_SECRET = (0x2D358DCCAA6C78A5, 0x8BB84B93962EACC9, 0x4B33A62ED433D4A3)
_RAPID_SEED = 0xBDD89AA982704029
_MURMUR_SEED = 0xDECAFBADDECAFBAD
_MURMUR_M = 0xC6A4A7935BD1E995


def command_hash(command: str, log_version: int) -> int | None:
    """ninja's hash of a command for a log of that version; None for versions that aren't known."""
    data = command.encode(errors="surrogateescape")
    match log_version:
        case 5:
            return murmur64a(data)
        case 6 | 7:
            return rapidhash(data)
        case _:
            return None


def rapidhash(data: bytes) -> int:
    """rapidhash of 2024 with its default seed and secrets, as ninja 1.12 and later have it."""
    length = len(data)
    seed = _RAPID_SEED ^ _mix(_RAPID_SEED ^ _SECRET[0], _SECRET[1]) ^ length
    if length <= 16:
        a, b = _short(data)
    else:
        seed = _long(data, seed)
        a, b = _word(data, length - 16), _word(data, length - 8)
    product = ((a ^ _SECRET[1]) & _MASK) * ((b ^ seed) & _MASK)
    low, high = product & _MASK, product >> 64
    return _mix(low ^ _SECRET[0] ^ length, high ^ _SECRET[1])


def murmur64a(data: bytes) -> int:
    """MurmurHash64A with the seed of ninja's log version 5 (ninja 1.5 to 1.11)."""
    value = _MURMUR_SEED ^ (len(data) * _MURMUR_M & _MASK)
    whole = len(data) - len(data) % 8
    for position in range(0, whole, 8):
        word = _word(data, position) * _MURMUR_M & _MASK
        word = (word ^ word >> 47) * _MURMUR_M & _MASK
        value = (value ^ word) * _MURMUR_M & _MASK
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MURMUR_M & _MASK
    value = (value ^ value >> 47) * _MURMUR_M & _MASK
    return value ^ value >> 47


def _word(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 8], "little")


def _half(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little")


def _mix(a: int, b: int) -> int:
    product = (a & _MASK) * (b & _MASK)
    return (product & _MASK) ^ product >> 64


def _short(data: bytes) -> tuple[int, int]:
    """The two words of at most 16 bytes."""
    length = len(data)
    if length >= 4:
        last = length - 4
        delta = (length & 24) >> (length >> 3)
        return _half(data, 0) << 32 | _half(data, last), _half(data, delta) << 32 | _half(data, last - delta)
    if length:
        return data[0] << 56 | data[length >> 1] << 32 | data[-1], 0
    return 0, 0


def _long(data: bytes, seed: int) -> int:
    """The seed after all but the last 16 bytes: three lanes of 16 bytes while more than 48 are left, then one."""
    position, left = 0, len(data)
    if left > 48:
        lanes = [seed, seed, seed]
        while left >= 48:
            for lane in range(3):
                at = position + 16 * lane
                lanes[lane] = _mix(_word(data, at) ^ _SECRET[lane], _word(data, at + 8) ^ lanes[lane])
            position, left = position + 48, left - 48
        seed = lanes[0] ^ lanes[1] ^ lanes[2]
    if left > 16:
        seed = _mix(_word(data, position) ^ _SECRET[2], _word(data, position + 8) ^ seed ^ _SECRET[1])
        if left > 32:
            seed = _mix(_word(data, position + 16) ^ _SECRET[2], _word(data, position + 24) ^ seed)
    return seed
