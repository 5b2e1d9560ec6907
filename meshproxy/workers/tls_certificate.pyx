"""See the .pxd. Nothing here runs for a request; some of it runs for a handshake that shows a certificate."""

import socket

from libc.string cimport memcpy, strlen
from meshproxy.workers.openssl cimport *

cdef enum:
    RSA_LEAST_BITS = 2048                # what Envoy takes too
    DER_MOST = 1 << 20

ECDSA_GROUPS = (b"prime256v1", b"secp384r1", b"secp521r1")


cdef bytes why():
    """What OpenSSL says of its last error."""
    cdef const char *text = ERR_reason_error_string(ERR_peek_last_error())
    ERR_clear_error()
    return text if text != NULL else b"unknown error"


cdef int give_passphrase(char *into, int room, int writing, void *arg) noexcept:
    cdef const char *passphrase = <const char *>arg
    cdef size_t length = strlen(passphrase)
    if length > <size_t>room:
        return -1
    memcpy(into, passphrase, length)
    return length


cdef list_of_certificates(bytes pem, X509Stack **out):
    cdef BIO *bio
    cdef X509 *x
    cdef X509Stack *stack = sk_X509_new_null()
    ERR_clear_error()
    bio = BIO_new_mem_buf(<const char *>pem, len(pem))
    x = PEM_read_bio_X509_AUX(bio, NULL, give_passphrase, <void *>b"")
    while x != NULL:
        sk_X509_push(stack, x)
        x = PEM_read_bio_X509_AUX(bio, NULL, give_passphrase, <void *>b"")
    BIO_free(bio)
    if sk_X509_num(stack) == 0:
        sk_X509_pop_free(stack, X509_free)
        raise ValueError(f"no certificate in PEM form could be read: {why().decode()}")
    ERR_clear_error()
    out[0] = stack


cdef class Credential:
    def __init__(self, model):
        """Of a model.Certificate. Raises ValueError: what cannot be read, a key that is another's, a key too weak."""
        cdef X509Stack *stack
        cdef int i
        list_of_certificates(model.chain_pem, &stack)
        self.leaf = sk_X509_value(stack, 0)
        X509_up_ref(self.leaf)
        if sk_X509_num(stack) > 1:
            self.chain = sk_X509_new_null()
            for i in range(1, sk_X509_num(stack)):
                X509_up_ref(sk_X509_value(stack, i))
                sk_X509_push(self.chain, sk_X509_value(stack, i))
        sk_X509_pop_free(stack, X509_free)
        self.read_key(model.key_pem, model.passphrase)
        self.judge_key()
        names = alternative_names(self.leaf, GEN_DNS, None) or [common_name(self.leaf)]
        self.names = tuple([name.lower() for name in names if name])
        self.must_staple = has_extension(self.leaf, NID_tlsfeature)
        if model.ocsp_staple:
            self.read_staple(model.ocsp_staple)

    def __dealloc__(self):
        X509_free(self.leaf)
        if self.chain != NULL:
            sk_X509_pop_free(self.chain, X509_free)
        EVP_PKEY_free(self.key)

    cdef read_key(self, bytes pem, bytes passphrase):
        cdef BIO *bio
        ERR_clear_error()
        bio = BIO_new_mem_buf(<const char *>pem, len(pem))
        self.key = PEM_read_bio_PrivateKey(bio, NULL, give_passphrase, <void *><const char *>passphrase)
        BIO_free(bio)
        if self.key == NULL:
            raise ValueError(f"the private key cannot be read ({why().decode()}): is it PEM, and is its passphrase right?")
        if not X509_check_private_key(self.leaf, self.key):
            ERR_clear_error()
            raise ValueError("the private key is not the certificate's")

    cdef judge_key(self):
        cdef int kind = EVP_PKEY_get_base_id(self.key)
        cdef char group[64]
        cdef size_t length = 0
        self.is_ecdsa = kind == EVP_PKEY_EC
        if kind == EVP_PKEY_RSA and EVP_PKEY_get_bits(self.key) < RSA_LEAST_BITS:
            raise ValueError(f"a RSA key of {EVP_PKEY_get_bits(self.key)} bits is too weak: {RSA_LEAST_BITS} is the least")
        if kind == EVP_PKEY_EC:
            EVP_PKEY_get_group_name(self.key, group, sizeof(group), &length)
            if group[:length] not in ECDSA_GROUPS:
                raise ValueError(f"an ECDSA key on the curve {group[:length].decode()} is not taken: P-256, P-384 and P-521 are")
        elif kind != EVP_PKEY_RSA and kind != EVP_PKEY_ED25519:
            raise ValueError("the key is neither RSA, ECDSA nor Ed25519")

    cdef read_staple(self, bytes der):
        cdef const unsigned char *at = <const unsigned char *><const char *>der
        cdef ASN1_GENERALIZEDTIME *until = NULL
        cdef OCSP_BASICRESP *basic = NULL
        cdef OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &at, len(der))
        if response == NULL:
            raise ValueError(f"the OCSP response cannot be read: {why().decode()}")
        try:
            if OCSP_response_status(response) == 0:
                basic = OCSP_response_get1_basic(response)
            if basic == NULL or OCSP_resp_count(basic) != 1:
                raise ValueError("the OCSP response is not a good answer for one certificate")
            OCSP_single_get0_status(OCSP_resp_get0(basic, 0), NULL, NULL, NULL, &until)
            self.staple = der
            self.staple_until = unix_time(<const ASN1_TIME *>until) if until != NULL else 0
        finally:
            OCSP_BASICRESP_free(basic)
            OCSP_RESPONSE_free(response)


cdef bint has_extension(X509 *x, int nid):
    return X509_get_ext_by_NID(x, nid, -1) >= 0


cdef bytes common_name(X509 *x):
    cdef char text[256]
    cdef int length = X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, text, sizeof(text))
    return text[:length] if 0 < length < <int>sizeof(text) else b""


cdef list alternative_names(X509 *x, int kind, bytes oid):
    cdef GENERAL_NAMES *names = <GENERAL_NAMES *>X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL)
    cdef list found = []
    cdef void *value
    cdef int i, type
    if names == NULL:
        return found
    for i in range(sk_GENERAL_NAME_num(names)):
        value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type)
        if type != kind:
            continue
        if kind == GEN_OTHERNAME:
            add_other_name(found, <OTHERNAME *>value, oid)
        elif kind == GEN_IPADD:
            add_ip(found, string_bytes(<ASN1_STRING *>value))
        else:
            found.append(string_bytes(<ASN1_STRING *>value))
    GENERAL_NAMES_free(names)
    return found


cdef bytes string_bytes(const ASN1_STRING *text):
    return (<const char *>ASN1_STRING_get0_data(text))[:ASN1_STRING_length(text)]


cdef add_ip(list found, bytes packed):
    if len(packed) == 4:
        found.append(socket.inet_ntop(socket.AF_INET, packed).encode())
    elif len(packed) == 16:
        found.append(socket.inet_ntop(socket.AF_INET6, packed).encode())


cdef add_other_name(list found, OTHERNAME *other, bytes oid):
    """Only values that are strings can be compared with text."""
    cdef char text[128]
    cdef int length
    if oid is not None:
        length = OBJ_obj2txt(text, sizeof(text), other.type_id, 1)
        if length <= 0 or text[:min(length, <int>sizeof(text) - 1)] != oid:
            return
    if other.value.type in STRING_TYPES:
        found.append(string_bytes(other.value.value.asn1_string))


STRING_TYPES = (4, 12, 19, 20, 22, 26, 27, 28, 30)
"""Universal tags of ASN.1 (X.680): OCTET STRING, UTF8String and the older kinds of text."""


cdef bytes taken(BIO *bio):
    """What was printed into a memory BIO, which is freed."""
    cdef char *at
    cdef long length = BIO_get_mem_data(bio, &at)
    cdef bytes text = at[:length]
    BIO_free(bio)
    return text


cdef bytes name_text(const X509_NAME *name):
    cdef BIO *bio = BIO_new(BIO_s_mem())
    X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253)
    return taken(bio)


cdef bytes pem_text(X509 *x):
    cdef BIO *bio = BIO_new(BIO_s_mem())
    PEM_write_bio_X509(bio, x)
    return taken(bio)


cdef bytes serial_text(X509 *x):
    cdef BIGNUM *number = ASN1_INTEGER_to_BN(X509_get_serialNumber(x), NULL)
    cdef char *text = BN_bn2hex(number)
    cdef bytes hexadecimal = text if text != NULL else b""
    OPENSSL_free(text)
    BN_free(number)
    return hexadecimal.lower()


cdef bytes fingerprint(X509 *x, bint sha256):
    cdef unsigned char digest[64]
    cdef unsigned int length = 0
    X509_digest(x, EVP_sha256() if sha256 else EVP_sha1(), digest, &length)
    return (<char *>digest)[:length].hex().encode()


cdef bytes certificate_hash(X509 *x):
    cdef unsigned char digest[64]
    cdef unsigned int length = 0
    X509_digest(x, EVP_sha256(), digest, &length)
    return (<char *>digest)[:length]


cdef bytes key_hash(X509 *x):
    cdef unsigned char digest[32]
    cdef unsigned char *der = NULL
    cdef int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der)
    if length <= 0:
        ERR_clear_error()
        return b""
    SHA256(der, length, digest)
    OPENSSL_free(der)
    return (<char *>digest)[:32]


cdef long unix_time(const ASN1_TIME *when):
    cdef BrokenTime broken
    if not ASN1_TIME_to_tm(when, &broken):
        ERR_clear_error()
        return 0
    return timegm(&broken)


def describe(bytes pem):
    """For tests: what the first certificate says."""
    cdef X509Stack *stack
    cdef X509 *x
    list_of_certificates(pem, &stack)
    x = sk_X509_value(stack, 0)
    said = {
        "subject": name_text(X509_get_subject_name(x)), "issuer": name_text(X509_get_issuer_name(x)), "serial": serial_text(x),
        "sha256": fingerprint(x, True), "sha1": fingerprint(x, False), "hash": certificate_hash(x), "key_hash": key_hash(x),
        "dns": alternative_names(x, GEN_DNS, None), "uri": alternative_names(x, GEN_URI, None),
        "email": alternative_names(x, GEN_EMAIL, None), "ip": alternative_names(x, GEN_IPADD, None),
        "other": alternative_names(x, GEN_OTHERNAME, None), "pem": pem_text(x),
        "from": unix_time(X509_get0_notBefore(x)), "until": unix_time(X509_get0_notAfter(x)),
    }
    sk_X509_pop_free(stack, X509_free)
    return said
