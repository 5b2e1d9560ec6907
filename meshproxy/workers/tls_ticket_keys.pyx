"""See the .pxd.

Without configured keys a node makes its own: its workers share a root that the master made, and derive a key for each epoch of time from
it. So they agree without a message, keys rotate, and a ticket of the epoch before is still good.
"""

import hashlib
import hmac
import time

from libc.string cimport memcmp, memcpy
from meshproxy.workers.openssl cimport *

cdef enum:
    EPOCH_S = 43200                      # longer than a session lasts by default, short enough that a key found later opens little


cdef class TicketKeys:
    def __init__(self, tuple keys=(), bytes root=None):
        """Either `keys` (80 bytes each) or `root`."""
        for key in keys:
            if len(key) != TICKET_KEY_BYTES:
                raise ValueError(f"a session ticket key has {TICKET_KEY_BYTES} bytes, not {len(key)}")
        self.keys = list(keys)
        self.root = root
        self.epoch = -1

    cdef derive(self):
        cdef int64_t epoch = int(time.time()) // EPOCH_S
        if self.root is not None and epoch != self.epoch:
            self.epoch = epoch
            self.keys = [derived(self.root, epoch), derived(self.root, epoch - 1)]

    cdef int seal(self, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac):
        cdef bytes key
        cdef const unsigned char *at
        self.derive()
        if not self.keys:
            return -1
        key = <bytes>self.keys[0]
        at = <const unsigned char *><const char *>key
        if RAND_bytes(iv, 16) != 1:
            return -1
        memcpy(name, at, 16)
        if not EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, at + 48, iv):
            return -1
        return 1 if set_mac(mac, at + 16) else -1

    cdef int open(self, const unsigned char *name, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac):
        cdef bytes key
        cdef const unsigned char *at
        cdef int place = 0
        self.derive()
        for key in self.keys:
            at = <const unsigned char *><const char *>key
            if memcmp(name, at, 16) == 0:
                if not set_mac(mac, at + 16) or not EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, at + 48, iv):
                    return -1
                return 1 if place == 0 else 2
            place += 1
        return 0


cdef bint set_mac(EVP_MAC_CTX *mac, const unsigned char *key):
    cdef OSSL_PARAM params[3]
    params[0] = OSSL_PARAM_construct_octet_string(b"key", <void *>key, 32)
    params[1] = OSSL_PARAM_construct_utf8_string(b"digest", b"SHA256", 0)
    params[2] = OSSL_PARAM_construct_end()
    return EVP_MAC_CTX_set_params(mac, params)


def derived(bytes root, int64_t epoch):
    """The key of an epoch: two blocks of HMAC-SHA512 in counter mode (NIST SP 800-108)."""
    label = b"meshproxy ticket key %d" % epoch
    blocks = [hmac.digest(root, bytes([place]) + label, hashlib.sha512) for place in (1, 2)]
    return b"".join(blocks)[:TICKET_KEY_BYTES]
